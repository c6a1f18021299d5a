"""A process that is killed at a named point, without a process."""


class Killed(BaseException):
    """What a failpoint raises in place of SIGKILL."""
