"""The programs that `peers.py` compares: one file a peer, and the poly_agents side.

`serving.py` runs one of them in a process of its own. `preparation.py` writes the texts and vectors they all use, and
checks that they compute the same. The modules of this package are imported only in those processes: the process that
starts them stays small, because Linux never reports a child's peak memory as less than its parent's.
"""
