"""Every time that is a constant of ours, in seconds, with what depends on it.

What an operator should choose is a setting instead (`deployments/settings`). Modules read these as
attributes, so that a test can replace one.
"""

from typing import Final

# From the ingress to a replica ------------------------------------------------------------------

STATUS_FRESH_S: Final = 1.0
"""The ingress asks a model's replicas for their status at most this often."""

STATUS_STALE_S: Final = 4.0
"""A status older than this is not answered with any more: requests wait for the next one."""

STARTING_S: Final = 120.0
"""So long after the ingress starts, a model whose replicas do not answer counts as loading."""

CONTROL_S: Final = 2.0
"""A status, the statistics or the report on shapes must arrive within this time."""

REPLY_GRACE_S: Final = 5.0
"""The ingress waits this much longer than a batch's last deadline for the replica's own answer."""

LIVENESS_S: Final = 5.0
"""A replica that has not replied for this long is asked whether it is alive."""

SIGN_OF_LIFE_S: Final = 5.0
"""A replica that is asked whether it is alive must answer within this time, or is given up."""

FAILED_REPLICA_S: Final = 5.0
"""A replica whose call failed gets no batches for this long, where another one can take them."""

UNRESPONSIVE_REPLICA_S: Final = 60.0
"""The same for a replica that gave no sign of life."""

REPLICA_POLL_S: Final = 0.05
"""How often Serve's router is asked again while it names no replica."""

CONNECT_S: Final = 5.0
"""A replica that is asked to connect to the ingress must have done so within this time."""

RECONNECT_S: Final = 1.0
"""A connection that was lost is opened again after this time."""

RECONNECT_REFUSED_S: Final = 60.0
"""The same where the replica said why it cannot connect."""

VERSION_CHANGE_S: Final = 0.02
"""A request whose version changed under way waits a multiple of this before it is tried again."""

HEALTH_WATCH_S: Final = 1.0
"""How often gRPC's `Watch` compares a model's health with what it last sent."""

LOST_LEASE_S: Final = 120.0
"""Shared memory sent to a replica that never mapped it is taken back after this time."""

TIMER_RESOLUTION_S: Final = 1e-3
"""That of uvloop's timers, which may fire early by as much."""

# Choosing a replica -----------------------------------------------------------------------------

BELIEVED_S: Final = 10.0
"""A replica that was sent a shape counts as having it for this long before it reports so."""

OTHER_LOAD_S: Final = 2.0
"""How long a replica's report on the load that other routers put on it is believed."""

# Versions and sources ---------------------------------------------------------------------------

HEALTH_CHECK_PERIOD_S: Final = 5
"""How often Serve asks a replica whether it is healthy."""

START_S: Final = 600
"""A replica reports itself started after this time even if its model is still loading."""

RETIRING_S: Final = 5.0
"""A version that is replaced or removed still answers for this long: the ingress learns of the
change within STATUS_FRESH_S, and what it sent before is on its way."""

SETTLING_S: Final = 1.0
"""Files that have just changed are looked at again after this time before they are loaded."""

RETRY_LOAD_FIRST_S: Final = 5.0
RETRY_LOAD_LAST_S: Final = 120.0
"""A version that cannot be loaded is tried again after the first of these, then after twice as
long each time, and at last this often."""

RETRY_IDLE_S: Final = 5.0
"""A version that was unloaded while idle and cannot be loaded again fails at once for this long."""

REMOTE_POLL_S: Final = 30.0
"""Object stores are polled at most this often, whatever `poll_s` is."""

SHORTEST_POLL_S: Final = 0.01
"""The smallest `poll_s` but 0."""

STORE_CALL_S: Final = 30.0
"""One call to an object store must end within this time."""

REMEMBER_SHAPES_S: Final = 60.0
"""How often a replica writes the shapes in demand to disk, for its next start."""

# Shapes -----------------------------------------------------------------------------------------

DEMAND_HALF_LIFE_S: Final = 60.0
"""The demand for a shape counts half after this time without requests."""

REMEMBER_FAILURE_S: Final = 300.0
"""A shape that could not be compiled is refused without another try for this long."""

DYNAMIC_SUFFICES_S: Final = 600.0
"""A shape whose own compilation was no faster is not promoted again for this long."""

KERNELS_WAIT_S: Final = 0.25
"""A shape whose kernels are missing leaves the streams to known shapes for at most this long."""

# Measuring at load ------------------------------------------------------------------------------

STACKING_TRIALS_S: Final = 5.0
"""No further stacked trial run begins after this time."""

STACKING_MEASURED_S: Final = 5.0
"""No further size is measured for stacking after this time."""

COMPARING_S: Final = 5.0
"""No further pair of runs is timed after this time."""

# Metrics ----------------------------------------------------------------------------------------

METRICS_HANDED_OVER_S: Final = 1.0
"""How often a process hands its metrics over to Ray."""

METRICS_FRESH_S: Final = 1.0
"""`/metrics` asks Ray's agents at most this often."""

METRICS_CALL_S: Final = 3.0
"""Ray's agents must answer `/metrics` within this time."""
