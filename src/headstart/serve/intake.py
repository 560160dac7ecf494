"""How requests bring the inputs of a model: an `Intake` for each modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from headstart.modalities import Modality
from headstart.serve.image_intake import ImageIntake
from headstart.serve.refusals import Refusal
from headstart.serve.requests import Asked, Input, Tensor
from headstart.serve.text_intake import TextIntake
from headstart.serve.threads import WorkerThreads
from headstart.settings.serving import Limits

if TYPE_CHECKING:
    from starlette.requests import Request

    from headstart.run import Run


class Intake(Protocol):
    """What a service does with inputs of a modality before they reach the network, and how it speaks of them."""

    @property
    def modality(self) -> Modality:
        """What the inputs are."""

    @property
    def heat_maps(self) -> bool:
        """Whether heat maps can be laid over an input."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The inputs of a model in the Open Inference Protocol, by name; a request has one of them."""

    def blank(self, preprocessing: Any) -> tuple[Any, tuple[int, int]]:
        """An input that the network takes, and its height and width, to try a model with."""

    async def read(self, request: Request, limits: Limits, threads: WorkerThreads, asked: Asked) -> list[Input]:
        """The inputs of a request to ``/predict``, at least one; Refusal where it cannot be parsed, or where there is none."""

    def most(self, limits: Limits) -> int:
        """How many inputs one request may have."""

    def too_many(self, limits: Limits) -> Refusal:
        """For more of them."""

    def weight(self, inputs: Sequence[Input], limits: Limits) -> int:
        """How many images are as much work, for what may be queued."""

    async def check(self, inputs: Sequence[Input], limits: Limits, threads: WorkerThreads) -> None:
        """Refuse inputs that together are too much, before any is decoded."""

    async def prepare(self, run: Run, one: Input, limits: Limits, threads: WorkerThreads) -> tuple[Any, tuple[int, int]]:
        """What the network takes, and height and width where the task needs them; UnreadableError where the input is refused."""

    def echo(self, one: Input) -> dict[str, Any]:
        """What is added to an entry of the response to show what it is of."""

    def training_name(self, name: str) -> str:
        """What clients are told as the name of a training input."""

    def refusal(self, one: Input, reason: str) -> Refusal:
        """Of a request whose only input is refused."""


INTAKES: dict[str, Intake] = {one.modality.name: one for one in (ImageIntake(), TextIntake())}
"""By the names of modalities."""
