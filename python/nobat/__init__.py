"""The Python client of nobat, a model server built around a queue.

    import nobat

    with nobat.Client("http://127.0.0.1:8000") as client:
        answer = client.predict("digits", [[0.0] * 64])
        job = client.submit("digits", [[0.0] * 64], priority=10, result_ttl="60s")
        print(answer.outputs, job.result(timeout=30).outputs)
"""

from ._retry import Retry
from ._types import Inputs, JobInfo, JobOptions, Model, Prediction, TensorSpec, Timings
from .aclient import AsyncClient, AsyncJob
from .client import Client, Job
from .errors import (
    AuthenticationError,
    Conflict,
    DeadlineExceeded,
    InvalidInput,
    InvalidRequest,
    JobFailed,
    NobatError,
    NotFound,
    PermissionDenied,
    ProtocolError,
    RateLimited,
    ResultExpired,
    ServerError,
    StatusError,
    Timeout,
    TransportError,
    Unavailable,
)
from .task import Task, task

__version__ = "0.1.0"
__all__ = [
    "AsyncClient", "AsyncJob", "AuthenticationError", "Client", "Conflict", "DeadlineExceeded", "Inputs", "InvalidInput",
    "InvalidRequest", "Job", "JobFailed", "JobInfo", "JobOptions", "Model", "NobatError", "NotFound", "PermissionDenied",
    "Prediction", "ProtocolError", "RateLimited", "ResultExpired", "Retry", "ServerError", "StatusError", "Task", "TensorSpec",
    "Timeout", "Timings", "TransportError", "Unavailable", "task",
]  # fmt: skip
