"""All that brainscale takes from Ray's private modules, each with what it is for. Tried with Ray 2.60.0.

Ray may change these with any release. pyproject.toml therefore allows one minor version; before it allows the next, the
tests in tests/cluster and tests/integration must pass with it, and this line names it.

| function | needed, because no public API |
|---|---|
| `has_autoscaler` | says whether the cluster has an autoscaler |
| `autoscaler_status` | says whether the autoscaler can start nodes for a placement group |
| `job_client` | gives the requests of `JobSubmissionClient` a time-out: it would wait for a silent server for ever |
| `send_raylet_messages_to_stderr` | keeps the raylet's messages off standard output, where results are |

Each imports what it needs when it is called: the Jobs client alone takes a quarter of a second.
"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray._private import worker

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient


@dataclass(frozen=True, kw_only=True)
class AutoscalerStatus:
    """What the autoscaler was asked for last, and what it last answered.

    Attributes:
        asked_version: number of the state of the cluster that the autoscaler is asked about.
        pending: a text for each placement group that waits for nodes, with its id in hexadecimal.
        answered_version: number of the state that the autoscaler has seen.
        infeasible: texts of those placement groups that it cannot start nodes for.
    """

    asked_version: int
    pending: tuple[str, ...]
    answered_version: int
    infeasible: tuple[str, ...]


def has_autoscaler() -> bool:
    """Return whether the connected cluster has an autoscaler that answers, Ray's second."""
    from ray.autoscaler.v2.utils import is_autoscaler_v2
    from ray.experimental.internal_kv import internal_kv_get_gcs_client

    return bool(is_autoscaler_v2(fetch_from_server=True, gcs_client=internal_kv_get_gcs_client()))


def autoscaler_status() -> AutoscalerStatus:
    """Return what the connected cluster's autoscaler says of the placement groups that wait."""
    from ray.core.generated import autoscaler_pb2
    from ray.experimental.internal_kv import internal_kv_get_gcs_client

    messages: Any = autoscaler_pb2  # its classes are made when it is imported
    reply = messages.GetClusterStatusReply.FromString(internal_kv_get_gcs_client().get_cluster_status())
    cluster, answer = reply.cluster_resource_state, reply.autoscaling_state
    return AutoscalerStatus(
        asked_version=cluster.cluster_resource_state_version,
        pending=tuple(request.details for request in cluster.pending_gang_resource_requests),
        answered_version=answer.last_seen_cluster_resource_state_version,
        infeasible=tuple(request.details for request in answer.infeasible_gang_resource_requests),
    )


def job_client(address: str, request_seconds: float) -> "JobSubmissionClient":
    """Return Ray's client of a Jobs server, each of whose requests ends after so many seconds without an answer."""
    from ray.job_submission import JobSubmissionClient

    class TimedClient(JobSubmissionClient):
        def _do_request(self, *args: Any, **kwargs: Any) -> Any:
            return super()._do_request(*args, **{"timeout": request_seconds, **kwargs})

    return TimedClient(address)


def send_raylet_messages_to_stderr(unless: str) -> None:
    """Print what the raylet says on standard error from now on, but for messages that hold the text `unless`."""

    def show(data: dict[str, Any], ignore_prefix: bool) -> None:
        if unless not in str(data["lines"]):
            worker.print_worker_logs(data, sys.stderr, ignore_prefix)

    worker.print_to_stdstream = show
