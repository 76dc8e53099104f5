"""The exceptions of poly_agents. Each says in one sentence what came, what is allowed and what to do.

`except PolyAgentsError` catches all that is raised on purpose. Whatever else comes out of this package is its fault.
The commands print these sentences without a traceback; `--debug` shows it.
"""


class PolyAgentsError(Exception):
    """Base of all exceptions that poly_agents raises on purpose."""


class InputError(PolyAgentsError, ValueError):
    """An argument, an option or the content of a file cannot be used."""


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that was named does not exist."""

    __str__ = Exception.__str__  # that of OSError would print an errno


class UnknownRankerError(InputError, ModuleNotFoundError):
    """There is no ranker of a name. ParlAI looks agents up by importing them, so this is an ImportError too."""


class UnknownNameError(InputError, AttributeError):
    """There is no task or agent of a name. ParlAI looks for it in a module, so this is an AttributeError too."""


class MissingPackageError(PolyAgentsError, ImportError):
    """An optional package has to be installed first."""


class DownloadError(PolyAgentsError):
    """A file cannot be fetched, or what came is not what its table promises."""


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its name if it has none.

    >>> first_line(ValueError("no such model\\nfurther lines")), first_line(KeyError())
    ('no such model', 'KeyError')
    """
    return str(error).strip().partition("\n")[0] or type(error).__name__
