"""Ubuntu Dialogue Corpus v1, in the form in which response selection has used it since: numbers and paths replaced.

Source   https://www.dropbox.com/s/2fdn26rj6h9bpvl/ubuntudata.zip (ubuntu_data.zip in some descriptions)
Licence  none is stated
Paper    Lowe et al. 2015, https://arxiv.org/abs/1506.08909; the files are those of Xu et al. 2017
Sizes    500,000 train, each with one wrong response; 50,000 valid, 50,000 test
Format   see tabs.py
Eval     10 candidates of the file, one of them right
Context  every turn, oldest first
"""

from poly_agents.files.download import Download
from poly_agents.tasks.tabs import TabsTeacher


class UbuntuV1Teacher(TabsTeacher):
    """`-t poly_agents:ubuntu_v1`"""

    FILES = (Download("https://www.dropbox.com/s/2fdn26rj6h9bpvl/ubuntudata.zip?dl=1", "ubuntudata.zip", archive=True),)
    sizes = {"valid": 10, "test": 10}
