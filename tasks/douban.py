"""Douban Conversation Corpus: threads of a Chinese social network; people judged the candidates of the test set.

Source   https://github.com/MarkWuNLP/MultiTurnResponseSelection links to DoubanConversaionCorpus.zip
Licence  none is stated
Paper    Wu et al. 2017, https://arxiv.org/abs/1612.01627
Sizes    500,000 train, 25,000 valid, each with one wrong response; 1,000 contexts of test, of which 667 are measured.
         Some copies of dev.txt are longer than the 50,000 lines that people use: cut it with `head -n 50000`
Format   see tabs.py; Chinese words are separated by spaces, which are removed
Eval     valid 2, test 10 candidates of the file, any number of them right; contexts whose candidates are all right or
         all wrong are left out, as in the authors' script
Context  every turn, oldest first
"""

from poly_agents.files.download import Download
from poly_agents.tasks.tabs import TabsTeacher


class DoubanTeacher(TabsTeacher):
    """`-t poly_agents:douban`"""

    FILES = (
        Download(
            "https://www.dropbox.com/s/90t0qtji9ow20ca/DoubanConversaionCorpus.zip?dl=1",
            "DoubanConversaionCorpus.zip",
            archive=True,
        ),
    )
    sizes = {"valid": 2, "test": 10}
    judged = True
    segmented = True
