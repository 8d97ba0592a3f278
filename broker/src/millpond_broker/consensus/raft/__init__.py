"""The metadata log between several voters: PySyncObj, hardened.

voter      one voter: what it hears and what is due, in; messages and outcomes, out. No clock, no thread.
library    the only module that imports pysyncobj: its settings, and the parts of it that are replaced
guards     what the library gets wrong, one method each, with what is lost without it
log_view   the journal, as the library sees it
pre_vote   no election that cannot be won, or that nobody needs
messages   what voters say to one another;  codec: the same as bytes
thread     the thread that a voter lives on
"""
