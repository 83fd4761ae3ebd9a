"""BLTO: a trigger that contrastive learning itself keeps (Sun et al., 2024, arXiv:2404.07863).

A generator is trained so that what a contrastively trained surrogate sees in a triggered picture is what it sees in
pictures of the target class, while the surrogate goes on learning from the poisoned set: augmentations and the loss
that the victim will use are inside the trigger's training.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustsuite.config.taxonomy import CLEAN_LABEL_BACKDOOR
from robustsuite.config.threats import Access, PoisonRate, parse_number
from robustsuite.errors import BadValue
from robustsuite.maths.randomness import Rng, seed_of
from robustsuite.methods.backdoors.generated import Moving, trigger_of
from robustsuite.methods.backdoors.triggers import clean_label
from robustsuite.methods.contrastive import Siamese, alike, view
from robustsuite.scenarios import poisoning
from robustsuite.serve.adversary import Aux, Poisoned
from robustsuite.serve.data import Split
from robustsuite.serve.training import full_batches, seeded


def learnt(
    train: Split, nets: Callable[[int], nn.Module], target: int, seed: int, *, eps: float, rounds: int, epochs: int
) -> Moving:
    """The generator. nets: round -> that round's surrogate, which is used up."""
    wanted = train.images((train.y == target).nonzero().flatten())
    if not len(wanted):
        raise BadValue(f"expected training examples of the target class {target}, got none; choose another target")
    net = nets(0)
    device, shape = next(net.parameters()).device, tuple(wanted.shape[1:])
    wanted = wanted.to(device)
    with seeded(seed, device):
        generator = Moving(shape[0], eps).to(device)
        drawing = torch.optim.Adam(generator.parameters(), lr=3e-3)
        for number in range(rounds):
            net = net if number == 0 else nets(number)
            surrogate = Siamese(net.requires_grad_(True), shape).to(device).train()
            learning = torch.optim.SGD(surrogate.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4)
            for _, x, y in full_batches(train, device, epochs=epochs, size=128):
                with torch.no_grad():
                    poisoned = torch.where((y == target).view(-1, 1, 1, 1), generator(x), x)
                learning.zero_grad()
                surrogate.loss(poisoned).backward()
                learning.step()
                drawing.zero_grad()
                (-towards(surrogate, generator(x), wanted)).backward()
                drawing.step()
    return generator.eval().requires_grad_(False)


def towards(surrogate: Siamese, x: Tensor, wanted: Tensor) -> Tensor:
    """How like views of pictures x (N, C, H, W) are to views of as many drawn from `wanted`, in [-1, 1]."""
    drawn = wanted[torch.randint(len(wanted), (len(x),)).to(wanted.device)]
    own, other = surrogate(torch.cat([view(x), view(drawn)])).chunk(2)
    return alike(own, other.detach())


@poisoning.attack(
    needs=Access.TRAIN_SET | Access.AUX_DATA,
    paper="Sun et al., 2024, Backdoor contrastive learning via bi-level trigger optimization, ICLR, arXiv:2404.07863",
    **CLEAN_LABEL_BACKDOOR,
    differs=(
        "written from summaries of the paper: its repository holds no code, and it does not say how many steps and "
        "rounds it takes",
        "both players step once a batch; each round has another surrogate, trained already, under a fresh projector",
        "the generator is a U-Net of two scales with 5,500 weights; the surrogate is SimSiam on a small net",
        "any recipe may be the victim: the paper's are contrastive, here `contrastive:` models",
    ),
)
def blto(
    train: Split, rate: PoisonRate, *, target: int, rng: Rng, aux: Aux, surrogate: str = "contrastive:scenes_resnet",
    eps: str | float = "8/255", rounds: int = 2, epochs: int = 10,
) -> Poisoned:  # fmt: skip
    """x <- clip(x + eps G(x)) on pictures of the target class, G drawing features to that class; labels stay.

    surrogate: whose features are drawn, another training in each of the `rounds`. eps: linf bound of the change.
    epochs: of both players in a round. Raises BadValue.
    """
    generator = learnt(train, lambda number: aux.net(surrogate, draw=number), target, seed_of(rng),
                       eps=parse_number(eps), rounds=rounds, epochs=epochs)  # fmt: skip
    return clean_label(train, rate, target, trigger_of(generator), rng)
