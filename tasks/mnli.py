"""MultiNLI: SNLI's question on ten genres of written and spoken English.

Source     https://cims.nyu.edu/~sbowman/multinli/multinli_1.0.zip
Licence    OANC, CC BY 3.0 and CC BY-SA 3.0, by genre; fiction partly public domain
Paper      Williams, Nangia and Bowman 2018, https://aclanthology.org/N18-1101
Sizes      pairs with a label: train 392,702, matched 9,815, mismatched 9,832
Context    two turns, "Premise: ..." and "Hypothesis: ..."
Candidates entailment, contradiction, neutral
Files      `multinli_1.0_{train,dev_matched,dev_mismatched}.jsonl` of the archive

The official test labels are hidden. Valid is the matched part (the genres of train) and test the mismatched one. The
examples equal those of ParlAI's task `multinli`.
"""

from poly_agents.files.download import Download
from poly_agents.tasks.snli import SnliTeacher


class MnliTeacher(SnliTeacher):
    """`-t poly_agents:mnli`"""

    FILES = (
        Download(
            "https://cims.nyu.edu/~sbowman/multinli/multinli_1.0.zip",
            "multinli_1.0.zip",
            "049f507b9e36b1fcb756cfd5aeb3b7a0cfcb84bf023793652987f7e7e0957822",
            archive=True,
        ),
    )
    names = {
        "train": "multinli_1.0_train.jsonl",
        "valid": "multinli_1.0_dev_matched.jsonl",
        "test": "multinli_1.0_dev_mismatched.jsonl",
    }
