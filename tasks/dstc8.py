"""DSTC8 track 2, NOESIS II: as DSTC7's track 1, with several speakers; any example may have no right candidate.

Source   https://github.com/dstc8-track2/NOESIS-II
Licence  none is stated
Paper    Gunasekara et al. 2020, "NOESIS II: Predicting Responses, Identifying Success, and Managing Complexity in
         Task-Oriented Dialogue"
Sizes    as the files have them
Format   that of DSTC7
Eval     100 candidates and "none of these"; the track's figure is the mean of MRR and recall@10
Context  of Advising, what is known of the student; then every message, `participant 1: ...`

Variants: Ubuntu's subtask 1 without one; `subtask_2`, whose contexts are sections of the channel; `advising`.
"""

from poly_agents.tasks.dstc7 import Dstc7Teacher, Source

WHERE = (
    "https://github.com/dstc8-track2/NOESIS-II says where; keep the names task-N.DATA.train.json, task-N.DATA.dev.json "
    "(DATA: ubuntu, advising); ours are the names of the test set, task-N.DATA.test.json, and of its answers, "
    "task-N.DATA.responses.tsv: an example's id, a tab, a candidate's id or NONE, a tab and its utterance a line"
)


class Dstc8Teacher(Dstc7Teacher):
    """`-t poly_agents:dstc8`, `-t poly_agents:dstc8:advising`"""

    variants = {
        "": Source(none=True),
        "subtask_2": Source(subtask=2, none=True),
        "advising": Source("advising", none=True),
    }
    names = "task-{subtask}.{data}.{part}.json"
    answers = "task-{subtask}.{data}.responses.tsv"
