"""Patches of how ParlAI prints: no control characters of a text, and nothing to a pipe that nobody reads."""

import sys


def patch_display(misc) -> None:
    """Spell out control characters in the messages that ParlAI prints, and print short reports of rankings.

    The first part can go when ParlAI does so itself, the second one when its own report is short.
    """
    from poly_agents.patches import reports
    from poly_agents.text.printable import printable

    colorize = misc.colorize
    misc.colorize = lambda text, style: colorize(printable(str(text)), style)
    misc.nice_report = reports.short(misc.nice_report)


def patch_logging(logging) -> None:
    """Spell out control characters in log lines, and end when nobody reads them: `logging` only prints a traceback.

    This patch can go when ParlAI's logger does both.
    """
    from poly_agents.text.printable import printable

    def spell_out(record) -> bool:
        record.msg, record.args = printable(record.getMessage()), ()
        return True

    def handle_error(record) -> None:
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            raise
        own_way(record)

    own_way = logging.logger.streamHandler.handleError
    logging.logger.streamHandler.handleError = handle_error
    logging.logger.addFilter(spell_out)
