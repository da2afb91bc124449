"""Named studies: what they ask, the runs they consist of, where these run, what they leave.

`study` finds a study by its file, `run` says what a run is, `record` writes it down, `executors`
and `launch` carry the runs out. Nothing here is loaded before it is used, so that listing the
studies loads no torch.
"""
