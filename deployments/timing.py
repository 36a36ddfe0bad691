"""All constant times, in seconds, with their effects.

Times that an operator should choose are settings (`deployments/settings`). Modules read these
constants as attributes, so that a test can replace one.
"""

from typing import Final

# From the ingress to a replica ------------------------------------------------------------------

STATUS_FRESH_S: Final = 1.0
"""The ingress asks a model's replicas for their status at most this often."""

STATUS_STALE_S: Final = 4.0
"""The ingress does not use a status older than this: requests wait for the next one."""

STARTING_S: Final = 120.0
"""A model whose replicas do not answer counts as loading for this long after the ingress starts."""

CONTROL_S: Final = 2.0
"""Calls for a status, statistics or the report on shapes time out after this."""

REPLY_GRACE_S: Final = 5.0
"""The ingress waits this much longer than a batch's last deadline for the replica's own answer."""

LIVENESS_S: Final = 5.0
"""The ingress asks a replica that has not replied for this long for a sign of life."""

SIGN_OF_LIFE_S: Final = 5.0
"""The ingress gives up a replica that gives no sign of life within this time."""

FAILED_REPLICA_S: Final = 5.0
"""A replica whose call failed gets no batches for this long, if another one can take them."""

UNRESPONSIVE_REPLICA_S: Final = 60.0
"""The same for a replica that gave no sign of life."""

REPLICA_POLL_S: Final = 0.05
"""The pause before a retry while Serve's router knows no replica."""

CONNECT_S: Final = 5.0
"""A replica must connect to the ingress within this time."""

RECONNECT_S: Final = 1.0
"""The pause before the ingress reopens a lost connection."""

RECONNECT_REFUSED_S: Final = 60.0
"""The same if the replica has reported why it cannot connect."""

VERSION_CHANGE_S: Final = 0.02
"""A request whose version changed in flight waits a multiple of this before it is retried."""

HEALTH_WATCH_S: Final = 1.0
"""How often gRPC's `Watch` compares a model's health with what it last sent."""

LOST_LEASE_S: Final = 120.0
"""A process takes back memory that it has lent after this time, if the peer never mapped it."""

TIMER_RESOLUTION_S: Final = 1e-3
"""The resolution of uvloop's timers, which may fire this much too early."""

# Choosing a replica -----------------------------------------------------------------------------

BELIEVED_S: Final = 10.0
"""A replica that was sent a shape counts as having it for this long, even before it reports it."""

OTHER_LOAD_S: Final = 2.0
"""How long a router uses a replica's report on the load from other routers."""

# Versions and sources ---------------------------------------------------------------------------

HEALTH_CHECK_PERIOD_S: Final = 5
"""How often Serve asks a replica whether it is healthy."""

START_S: Final = 600
"""A replica reports itself started after this time even if its model is still loading."""

RETIRING_S: Final = 5.0
"""A replaced or removed version still answers for this long: the ingress learns of the change
within STATUS_FRESH_S, and earlier requests are in flight."""

SETTLING_S: Final = 1.0
"""The wait after files change, before a version is loaded: they may not be complete yet."""

RETRY_LOAD_FIRST_S: Final = 5.0
RETRY_LOAD_LAST_S: Final = 120.0
"""The first and the longest pause before a failed version is loaded again; it doubles each time."""

RETRY_IDLE_S: Final = 5.0
"""If an idle version fails to load again, its requests fail at once for this long."""

REMOTE_POLL_S: Final = 30.0
"""The least interval of polls of object stores, even if `poll_s` is shorter."""

SHORTEST_POLL_S: Final = 0.01
"""The smallest `poll_s` other than 0."""

STORE_CALL_S: Final = 30.0
"""One call to an object store times out after this."""

REMEMBER_SHAPES_S: Final = 60.0
"""How often a replica saves the shapes in demand, for its next start."""

# Shapes -----------------------------------------------------------------------------------------

DEMAND_HALF_LIFE_S: Final = 60.0
"""The demand for a shape halves after this time without requests."""

REMEMBER_FAILURE_S: Final = 300.0
"""A replica refuses a shape that failed to compile for this long, without a retry."""

DYNAMIC_SUFFICES_S: Final = 600.0
"""A shape whose static compilation was no faster is not promoted again for this long."""

KERNELS_WAIT_S: Final = 0.25
"""A shape without kernels leaves a stream free for other shapes for at most this long."""

# Measuring at load ------------------------------------------------------------------------------

STACKING_TRIALS_S: Final = 5.0
"""No further stacked trial run begins after this time."""

STACKING_MEASURED_S: Final = 5.0
"""No further size is measured for stacking after this time."""

COMPARING_S: Final = 5.0
"""No further pair of runs is timed after this time."""

# Metrics ----------------------------------------------------------------------------------------

METRICS_HANDED_OVER_S: Final = 1.0
"""How often a process passes its metrics to Ray."""

METRICS_FRESH_S: Final = 1.0
"""`/metrics` asks Ray's agents at most this often."""

METRICS_CALL_S: Final = 3.0
"""The calls of `/metrics` to Ray's agents time out after this."""
