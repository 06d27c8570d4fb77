"""All uses of Ray's private modules, each with its reason. Tried with Ray 2.60.0.

Ray may change these modules in any release. pyproject.toml therefore allows one minor version. Before it allows the
next, the tests in tests/cluster and tests/integration must pass with it, and the first line must name it.

| function | reason: no public API … |
|---|---|
| `has_autoscaler` | tells whether the cluster has an autoscaler |
| `autoscaler_status` | tells whether the autoscaler can start nodes for a placement group |
| `job_client` | sets a time-out for `JobSubmissionClient`, which would wait for a silent server for ever |
| `require_answer` | `ray.init` has no time-out: it tries an address that does not answer for a quarter of an hour |
| `send_raylet_messages_to_stderr` | keeps the raylet's messages out of standard output, where the results are |

Each function imports what it needs when it is called, since the Jobs client alone takes a quarter of a second.
"""

import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ray._private import worker

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient


@dataclass(frozen=True, kw_only=True)
class AutoscalerStatus:
    """The last question to the autoscaler, and its last answer.

    Attributes:
        asked_version: version of the cluster's state that the autoscaler is asked about.
        pending: one text for each placement group that waits for nodes; it contains the group's id in hexadecimal.
        answered_version: version of the cluster's state that the autoscaler has seen.
        infeasible: texts of the placement groups for which it cannot start nodes.
    """

    asked_version: int
    pending: tuple[str, ...]
    answered_version: int
    infeasible: tuple[str, ...]


def has_autoscaler() -> bool:
    """Return whether the connected cluster has an autoscaler of version 2, which can be asked."""
    from ray.autoscaler.v2.utils import is_autoscaler_v2
    from ray.experimental.internal_kv import internal_kv_get_gcs_client

    return bool(is_autoscaler_v2(fetch_from_server=True, gcs_client=internal_kv_get_gcs_client()))


def autoscaler_status() -> AutoscalerStatus:
    """Return the autoscaler's answer for the placement groups that wait for nodes."""
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
    """Return Ray's client of a Jobs server, with a time-out for each request.

    Args:
        address: URL of the Jobs server.
        request_seconds: time-out of a request, seconds.
    """
    from ray.job_submission import JobSubmissionClient

    class TimedClient(JobSubmissionClient):
        def _do_request(self, *args: Any, **kwargs: Any) -> Any:
            return super()._do_request(*args, **{"timeout": request_seconds, **kwargs})

    return TimedClient(address)


def require_answer(address: str, seconds: float) -> None:
    """Ask the Ray at an address whether it is alive; a Ray that refuses our token is.

    Args:
        address: host and port of its GCS, `auto` to find one on this machine, or an address of Ray Client (ray://).
        seconds: time that it may take to answer.

    Raises:
        OSError: it does not answer, or there is none on this machine.
        AuthenticationError: this machine has no token.
        ValueError: it is no address.
    """
    import grpc
    from ray._private import services
    from ray._private.gcs_utils import create_gcs_channel
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    found = services.get_ray_address_from_environment(address, None).removeprefix("ray://")
    target = urlsplit(f"//{found}")
    if not target.hostname or not target.port:
        raise ValueError("not host:port")
    with socket.create_connection((target.hostname, target.port), timeout=seconds):
        pass
    if address.startswith("ray://"):  # another service, on a port of its own
        return
    messages: Any = gcs_service_pb2  # its classes are made when it is imported
    with create_gcs_channel(found) as channel:
        try:
            gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel).CheckAlive(
                messages.CheckAliveRequest(), timeout=seconds
            )
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                raise ConnectionError("another service listens there, or a Ray that is busy") from None


def send_raylet_messages_to_stderr(*unless: str) -> None:
    """Print the raylet's messages on standard error from now on, except those that contain one of the texts."""

    def show(data: dict[str, Any], ignore_prefix: bool) -> None:
        if not any(text in str(data["lines"]) for text in unless):
            worker.print_worker_logs(data, sys.stderr, ignore_prefix)

    worker.print_to_stdstream = show
