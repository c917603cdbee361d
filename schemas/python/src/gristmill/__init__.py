"""Client and model export for Gristmill."""

from ._client import Client, JobError, Result, Submitted, connect
from ._export import export
from ._score import NoSuchModel
from ._wire import (
    ErrorInfo,
    InvalidBody,
    InvalidTensor,
    Job,
    Reply,
    Tensor,
    decode_job,
    decode_reply,
    encode_error,
    encode_job,
    encode_result,
)

__all__ = [
    "Client",
    "ErrorInfo",
    "InvalidBody",
    "InvalidTensor",
    "Job",
    "JobError",
    "NoSuchModel",
    "Reply",
    "Result",
    "Submitted",
    "Tensor",
    "connect",
    "decode_job",
    "decode_reply",
    "encode_error",
    "encode_job",
    "encode_result",
    "export",
]
