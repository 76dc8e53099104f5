"""E-commerce Dialogue Corpus: customers of Taobao and those who sell to them, in Chinese.

Source   https://github.com/cooelf/DeepUtteranceAggregation
Licence  none is stated
Paper    Zhang et al. 2018, https://arxiv.org/abs/1806.09102
Sizes    500,000 train, 5,000 valid, each with one wrong response; 1,000 test
Format   see tabs.py; Chinese in words parted by spaces, which are taken out
Eval     valid 2, test 10 candidates of the file, one of them right
Context  every turn, oldest first
"""

from poly_agents.tasks.tabs import TabsTeacher

WHERE = (
    "https://github.com/cooelf/DeepUtteranceAggregation links to an archive on Google Drive; name its three files "
    "train.txt, dev.txt and test.txt"
)


class EcommerceTeacher(TabsTeacher):
    """`-t poly_agents:ecommerce`"""

    sizes = {"valid": 2, "test": 10}
    segmented = True
