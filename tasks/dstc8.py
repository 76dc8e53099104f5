"""DSTC8 track 2, NOESIS II: as DSTC7's track 1, with several speakers; any example may have no right candidate.

Source   https://github.com/dstc8-track2/NOESIS-II: http://ibm.biz/dstc8_track2_data, .../dstc8_track2_test_data and
         .../dstc8_test_ground_truth, to be downloaded by hand
Licence  none is stated for the data; the organisers' code is Apache-2.0
Paper    Gunasekara et al. 2020, "NOESIS II: Predicting Responses, Identifying Success, and Managing Complexity in
         Task-Oriented Dialogue"
Sizes    those of the files
Format   that of DSTC7. The inside of the ground truth was not seen here: it is read as DSTC7's, without an utterance
         if need be
Files    `DSTC8_DATA/Task_N/DATA/task-N.DATA.{train,dev}.json`, `DSTC8_TESTDATA/Task_N/task-N.DATA.test.blind.json` and
         `DSTC8_TESTDATA_GROUNDTRUTH/DATA-task-N.txt`, as the archives unpack; or the same files without their first
         folder, or in one folder; or with the names `task-N.DATA.test.json` and `task-N.DATA.responses.tsv`
Eval     100 candidates and "none of these"; the track's figure is the mean of MRR and recall@10
Context  of Advising, what is known of the student; then every message, `participant 1: ...`

Without a variant this is Ubuntu's subtask 1. The others: `subtask_2`, whose contexts are sections of the channel, and
`advising`. `--submission FILE` writes what the track takes: the JSON of DSTC7 under a name like
`Ubuntu_subtask_1.json`, with the 100 best candidates and NONE among them. Subtasks 3 and 4 are not read.
"""

from poly_agents.tasks.dstc7 import Dstc7Teacher, Source


class Dstc8Teacher(Dstc7Teacher):
    """`-t poly_agents:dstc8`, `-t poly_agents:dstc8:advising`"""

    FILES = ()
    WHERE = (
        "get the archives by hand from https://github.com/dstc8-track2/NOESIS-II, unpack them side by side and give "
        "the folder that holds DSTC8_DATA, DSTC8_TESTDATA and DSTC8_TESTDATA_GROUNDTRUTH as --data-files"
    )
    variants = {
        "": Source(none=True),
        "subtask_2": Source(subtask=2, none=True),
        "advising": Source("advising", none=True),
    }

    @staticmethod
    def names(source: Source, kind: str) -> list[str]:
        """List the names that a file may have. `kind` is train, dev, test or responses.

        >>> Dstc8Teacher.names(Source(), "dev")[0]
        'DSTC8_DATA/Task_1/ubuntu/task-1.ubuntu.dev.json'
        """
        data, task = source.data, source.subtask
        if kind == "test":
            folders, name = ("DSTC8_TESTDATA", f"Task_{task}"), f"task-{task}.{data}.test.blind.json"
            renamed = [f"task-{task}.{data}.test.json"]
        elif kind == "responses":
            folders, name = ("DSTC8_TESTDATA_GROUNDTRUTH",), f"{data}-task-{task}.txt"
            renamed = [f"task-{task}.{data}.responses.tsv"]
        else:
            folders, name = ("DSTC8_DATA", f"Task_{task}", data), f"task-{task}.{data}.{kind}.json"
            renamed = []
        inside = ["/".join((*folders[first:], name)) for first in range(len(folders))]
        return [*inside, name, *renamed]
