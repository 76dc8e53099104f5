"""MultiNLI: SNLI's question on ten genres of written and spoken English.

Source     https://cims.nyu.edu/~sbowman/multinli/multinli_1.0.zip
Licence    OANC, CC BY 3.0 and CC BY-SA 3.0, by genre; fiction partly public domain
Paper      Williams, Nangia and Bowman 2018, https://aclanthology.org/N18-1101
Sizes      pairs with a label: train 392,702, matched 9,815, mismatched 9,832
Context    two turns, "Premise: ..." and "Hypothesis: ..."
Candidates entailment, contradiction, neutral
Files      `multinli_1.0_{train,dev_matched,dev_mismatched}.jsonl` of the archive

The official test labels are hidden: valid is the matched part (genres of train), test the mismatched one, as in
ParlAI's task `multinli`, whose examples these are.
"""

from poly_agents.files.download import Download
from poly_agents.tasks.snli import SnliTeacher

FILES = (
    Download(
        "https://cims.nyu.edu/~sbowman/multinli/multinli_1.0.zip",
        "multinli_1.0.zip",
        "049f507b9e36b1fcb756cfd5aeb3b7a0cfcb84bf023793652987f7e7e0957822",
        archive=True,
    ),
)


class MnliTeacher(SnliTeacher):
    """`-t poly_agents:mnli --data-files FOLDER`"""

    names = {
        "train": "multinli_1.0_train.jsonl",
        "valid": "multinli_1.0_dev_matched.jsonl",
        "test": "multinli_1.0_dev_mismatched.jsonl",
    }
