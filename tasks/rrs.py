"""RRS, Restoration-200k: Chinese conversations whose test candidates were retrieved and judged by people.

Source   https://github.com/gmftbyGMFTBY/SimpleReDial-v1
Licence  none is stated
Paper    Lan et al. 2021, https://arxiv.org/abs/2110.06612; the conversations are those of Pan et al. 2019
Sizes    as the files have them
Format   see tabs.py; Chinese in words parted by spaces, which are taken out
Eval     the candidates of the file, 10 in test, any number of them right; contexts whose candidates are all right or
         all wrong are left out, as in Douban
Context  every turn, oldest first
"""

from poly_agents.tasks.tabs import TabsTeacher

WHERE = (
    "https://github.com/gmftbyGMFTBY/SimpleReDial-v1 links to its data; of the folder restoration-200k, train.txt, "
    "valid.txt (or dev.txt) and test.txt are read"
)


class RrsTeacher(TabsTeacher):
    """`-t poly_agents:rrs`"""

    sizes = {"test": 10}
    judged = True
    segmented = True
