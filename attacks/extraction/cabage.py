"""CaBaGE (Rosenthal et al., 2024): a data-free thief with several generators, on DisGUIDE's two clones (2023).

Generators draw pictures on which two clones disagree; that asks the victim nothing. Of what they draw only the harder,
class by class in equal parts, is asked about, and what clones find difficult is replayed more often. Clones and
generators take turns: of two small networks on one core, vmap's grouped convolutions take 1.2 to 2.8 times as long.
"""

from __future__ import annotations

import copy
import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustsuite.config.registry import Cost
from robustsuite.config.taxonomy import EXTRACTION
from robustsuite.config.threats import Access
from robustsuite.errors import BadValue
from robustsuite.maths.projections import levels
from robustsuite.scenarios import extraction
from robustsuite.scenarios.extraction import ALL, Stolen, Thief, Victim
from robustsuite.serve.data import InputSpace

LATENT, CLONES, CUTS, CUT = 256, 2, (0.4, 0.8), 0.3
"""Numbers a picture is drawn from, clones, shares of the queries after which the clones' rate is cut, and to what."""

SURE = 1e-6
"""The least probability that logits are read back from: a rounded 0 would be minus infinity."""


class Generator(nn.Module):
    """Numbers (B, LATENT) -> pictures (B, C, H, W) in [0, 1]: DFME's generator, normalised by each batch alone."""

    def __init__(self, space: InputSpace, width: int) -> None:
        super().__init__()
        self.size, self.start = (space.height, space.width), (-(-space.height // 4), -(-space.width // 4))
        norm = partial(nn.BatchNorm2d, track_running_stats=False)
        self.first = nn.Linear(LATENT, 2 * width * self.start[0] * self.start[1])
        self.layers = nn.Sequential(
            norm(2 * width), nn.Upsample(scale_factor=2), nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            norm(2 * width), nn.LeakyReLU(0.2), nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, width, 3, padding=1), norm(width), nn.LeakyReLU(0.2),
            nn.Conv2d(width, space.channels, 3, padding=1), norm(space.channels, affine=False), nn.Tanh(),
        )  # fmt: skip

    def forward(self, z: Tensor) -> Tensor:
        x: Tensor = self.layers(self.first(z).unflatten(1, (-1, *self.start)))
        return (x[..., : self.size[0], : self.size[1]] + 1) / 2


class Voted(nn.Module):
    """The log of the clones' mean softmax: the soft vote that DisGUIDE ends with."""

    def __init__(self, clones: list[nn.Module]) -> None:
        super().__init__()
        self.clones = nn.ModuleList(clones)

    def forward(self, x: Tensor) -> Tensor:
        logs = torch.stack([net(x).log_softmax(1) for net in self.clones])
        return logs.logsumexp(0) - math.log(len(self.clones))


class Replay:
    """Queries and answers, in 8 bits a value as they were asked, and how hard each (N,) was when last learnt from."""

    def __init__(self, own: Thief) -> None:
        most = own.marks[-1]
        self.x = torch.zeros(most, *own.space.shape, dtype=torch.uint8, device=own.device)
        self.answers = torch.zeros(most, own.space.classes, device=own.device)
        self.hard = torch.zeros(most, device=own.device)
        self.held = 0

    def add(self, x: Tensor, answers: Tensor) -> Tensor:
        """Remember these and return their positions; what was not learnt from yet is as hard as the hardest."""
        rows = torch.arange(self.held, self.held + len(x), device=self.hard.device)
        self.x[rows], self.answers[rows] = (x * 255).round().to(torch.uint8), answers
        self.hard[rows] = self.hard.max().clamp(min=1)
        self.held += len(x)
        return rows

    def drawn(self, size: int, order: torch.Generator) -> Tensor:
        """Positions of `size`, or of all there are, drawn without replacement by how hard they are.

        The largest u^(1/w) of uniform u, which nothing waits for (Efraimidis & Spirakis, 2006).
        """
        u = torch.rand(self.held, generator=order).to(self.hard.device)
        return (u.log() / (self.hard[: self.held] + SURE)).topk(min(size, self.held)).indices


@extraction.attack(
    needs=Access.LABELS,
    paper="Rosenthal et al., 2024, arXiv:2409.10643",
    cost=lambda classes, replays, **_: Cost(ALL, 1 + replays),
    differs=(
        "written from the abstract and DisGUIDE's code: how the paper weighs what it replays, filters and balances was "
        "not to be had; here by the last loss, and as many of each class, those that clones differ on most",
        "the number of classes is known; the paper also learns it on the way",
        "generators are normalised by each batch alone, DisGUIDE's by running statistics when it asks",
        "pictures are rounded to 8 bits before they are asked about; an eighth of DisGUIDE's are made grey",
    ),
    **EXTRACTION,
)
def cabage(
    victim: Victim, own: Thief, *, generators: int = 3, candidates: int = 2, batch: int = 64, replays: int = 3,
    diversity: float = 0.2, lr: float = 0.03, lr_generator: float = 1e-4, width: int = 64,
) -> Stolen:  # fmt: skip
    """Two clones learn from what several generators draw to part them; nobody's pictures are used.

    candidates: pictures drawn for each that is asked about. replays: steps on old answers for each new batch.
    diversity: the weight of the classes' entropy. lr: the first of the clones' SGD; lr_generator: of Adam. width:
    filters of the generators. Raises BadValue.
    """
    if min(generators, candidates, replays, width) < 1 or batch < 2:
        given = f"{generators=}, {candidates=}, {replays=}, {width=}, {batch=}"
        raise BadValue(f"expected these to be 1 or more, and a batch of 2, got {given}; leave them out")
    with torch.random.fork_rng():
        torch.manual_seed(own.seed)
        nets: list[nn.Module] = [Generator(own.space, width).to(own.device) for _ in range(generators)]
    order, memory = torch.Generator().manual_seed(own.seed), Replay(own)
    done, reached = 0, list[tuple[int, nn.Module]]()
    clones = [own.fresh(draw).to(own.device).requires_grad_(True) for draw in range(CLONES)]
    learning = torch.optim.SGD(_weights(clones), lr=lr, momentum=0.9, weight_decay=5e-4)
    drawing = torch.optim.Adam(_weights(nets), lr=lr_generator)
    for mark in own.marks:
        while done < mark:
            for net in clones:
                net.eval()
            parted(nets, clones, drawing, pictures(nets, batch, order, own.device), diversity)
            size = min(batch, mark - done)
            x = hardest(pictures(nets, candidates * size, order, own.device).detach(), clones, size)
            rows, done = memory.add(x, victim.ask(x)), done + size
            for group in learning.param_groups:
                group["lr"] = lr * CUT ** sum(done > cut * own.marks[-1] for cut in CUTS)
            for drawn in (rows, *(memory.drawn(batch, order) for _ in range(replays))):
                learn(clones, learning, memory, drawn, victim.hard)
        reached.append((done, Voted([copy.deepcopy(net).eval() for net in clones])))
    return Stolen(tuple(reached))


def pictures(nets: list[nn.Module], size: int, order: torch.Generator, device: str) -> Tensor:
    """At least `size` pictures, as many from each generator."""
    each = max(2, -(-size // len(nets)))
    return torch.cat([net(torch.randn(each, LATENT, generator=order).to(device)) for net in nets])


def parted(
    nets: list[nn.Module], clones: list[nn.Module], drawing: torch.optim.Optimizer, x: Tensor, diversity: float
) -> None:
    """A step of the generators that drew x: up goes what clones differ by, and the entropy of what they say in all.

    -mean of the standard deviation over clones + diversity * sum of p log p; the clones are left alone.
    """
    p = torch.stack([net(x).softmax(1) for net in clones])
    mean = p.mean((0, 1)) + SURE
    loss = -p.std(0).mean() + diversity * (mean * mean.log()).sum()
    _follow(drawing, loss, _weights(nets))


def hardest(x: Tensor, clones: list[nn.Module], size: int) -> Tensor:
    """`size` of the pictures, as many of each class they are taken for, those that clones differ on most first."""
    x = levels(x)
    with torch.no_grad():
        p = torch.stack([net(x).softmax(1) for net in clones])
    classes, order = p.mean(0).argmax(1), p.std(0).mean(1).argsort(descending=True, stable=True)
    said = classes[order]
    place = functional.one_hot(said, p.shape[2]).cumsum(0).gather(1, said[:, None]).squeeze(1)  # in its class
    return x[order[place.argsort(stable=True)[:size]]]


def learn(clones: list[nn.Module], learning: torch.optim.Optimizer, memory: Replay, rows: Tensor, hard: bool) -> None:
    """A step of both clones on answered queries, whose hardness becomes their mean loss.

    l1 between logits less their mean, those of the victim read back from its scores; of classes alone cross-entropy.
    """
    if len(rows) < 2:  # batch norm needs more than one
        return
    x, answers = memory.x[rows].float() / 255, memory.answers[rows]
    log_p = answers.clamp(min=SURE).log()
    wanted = log_p - log_p.mean(1, keepdim=True)
    losses = []
    for net in clones:
        z = net.train()(x)
        apart = (
            functional.cross_entropy(z, answers, reduction="none")
            if hard
            else ((z - z.mean(1, keepdim=True) - wanted).abs().mean(1))
        )
        losses.append(apart)
    both = torch.stack(losses)
    memory.hard[rows] = both.detach().mean(0)
    _follow(learning, both.mean(1).sum(), _weights(clones))


def _weights(nets: list[nn.Module]) -> list[nn.Parameter]:
    return [p for net in nets for p in net.parameters()]


def _follow(optimiser: torch.optim.Optimizer, loss: Tensor, weights: list[nn.Parameter]) -> None:
    for parameter, grad in zip(weights, torch.autograd.grad(loss, weights), strict=True):
        parameter.grad = grad
    optimiser.step()
