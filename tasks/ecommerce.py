"""E-commerce Dialogue Corpus: customers of Taobao and those who sell to them, in Chinese.

Source   https://github.com/cooelf/DeepUtteranceAggregation, which links to
         https://drive.google.com/file/d/154J-neBo20ABtSmJDvm7DK0eTuieAuvw/view
Licence  none is stated
Paper    Zhang et al. 2018, https://arxiv.org/abs/1806.09102
Sizes    500,000 train, 5,000 valid, each with one wrong response; 1,000 test (10,000 lines, whose last turns are not
         all different: somebody counted 879)
Format   see tabs.py; Chinese words are separated by spaces, which are removed
Files    `E-commerce dataset/{train,dev,test}.txt`, as the archive unpacks, or these files in the folder itself
Eval     valid 2, test 10 candidates of the file, one of them right
Context  every turn, oldest first
"""

from poly_agents.tasks.tabs import TabsTeacher


class EcommerceTeacher(TabsTeacher):
    """`-t poly_agents:ecommerce`"""

    WHERE = (
        "download the archive by hand from https://drive.google.com/file/d/154J-neBo20ABtSmJDvm7DK0eTuieAuvw/view, "
        "unpack it and give as --data-files the folder that holds `E-commerce dataset`"
    )
    folder = "E-commerce dataset"
    sizes = {"valid": 2, "test": 10}
    segmented = True
