"""On the way: the seconds that a call takes to arrive at a server, which nobody tells.

That differs from call to call, so no single value is safe: each rule takes the one by which it errs to the harmless side.
"""

from __future__ import annotations

ARRIVES_SOON = 0.1  # a call has hardly arrived before: what leaves the server's window by then is not in its way
UNCOUNTED = 0.2  # mostly: of calls that started so shortly before an answer, what it says is left may not have been taken off
IN_ANY_ORDER = 0.3  # hardly any is longer on its way: of calls that start so close to each other, any may arrive first
ARRIVED = 1.0  # by then a call has arrived, whatever happens: an answer that comes later may be older by the rest
