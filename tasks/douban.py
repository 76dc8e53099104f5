"""Douban Conversation Corpus: threads of a Chinese social network; people judged the candidates of the test set.

Source   https://www.dropbox.com/s/eo5zegg1k83uqaj/DoubanConversaionCorpus.zip
Licence  none is stated
Paper    Wu et al. 2017, https://arxiv.org/abs/1612.01627
Sizes    500,000 train, 25,000 valid, each with one wrong response; 1,000 contexts of test
Format   see tabs.py; Chinese in words parted by spaces, which are taken out
Eval     valid 2, test 10 candidates of the file, any number of them right; as in the field's script, contexts whose
         candidates are all right or all wrong are left out
Context  every turn, oldest first
"""

from poly_agents.files.download import Download
from poly_agents.tasks.tabs import TabsTeacher

FILES = (
    Download(
        "https://www.dropbox.com/s/eo5zegg1k83uqaj/DoubanConversaionCorpus.zip?dl=1",
        "DoubanConversaionCorpus.zip",
        archive=True,
    ),
)


class DoubanTeacher(TabsTeacher):
    """`-t poly_agents:douban`"""

    sizes = {"valid": 2, "test": 10}
    judged = True
    segmented = True
