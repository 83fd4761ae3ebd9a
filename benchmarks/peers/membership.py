"""LiRA and RMIA beside their authors' code, on the same answers of the same networks: digits, learnt by heart.

    python benchmarks/peers/membership.py [--lira FILE] [--rmia FILE] [--shadows 64] [--victims 8] [--out FOLDER]

--lira: research/mi_lira_2021/plot.py of github.com/tensorflow/privacy; --rmia: modules/mia/attacks/rmia.py of
github.com/privacytrustlab/ml_privacy_meter; both are only run, from where they lie. One thread. The victims' scores are
pooled (intervals take them for independent); AUC, and members found at FPR 1 % and 0.1 % with exact intervals.
"corrected" is the authors' LiRA with the deviation of who is out taken from those, and offline one tail. With --out the
networks' answers are kept and found.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor, nn

from robustsuite.attacks.membership.bavaria import bavaria
from robustsuite.attacks.membership.lira import lira
from robustsuite.attacks.membership.ratio import ratio
from robustsuite.attacks.membership.rmia import rmia
from robustsuite.config.threats import Access
from robustsuite.maths import stats
from robustsuite.maths.randomness import Rng
from robustsuite.methods.batched import fitted_together
from robustsuite.methods.membership import Shadows, scaled_logit
from robustsuite.reports.measure.kinds import auc, tpr_at
from robustsuite.serve.adversary import Membership
from robustsuite.serve.data import Split, load_data
from robustsuite.serve.models import Training
from robustsuite.serve.oracle import Oracle
from robustsuite.serve.training import Recipe, half_cosine

EPOCHS = 40


class Remembered(nn.Module):
    """A network whose answers are known: to pictures whose first value is their place, in thousands."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.register_buffer("logits", logits)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.logits[(x[:, 0, 0, 0] * 1000).round().long()]  # type: ignore[index]
        return found


def perceptron(seed: int) -> nn.Module:
    """64 values, 128 units, 10 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def answered(shadows: int, victims: int, folder: Path | None) -> dict[str, Tensor]:
    """logits (networks, pool + population, 10), shadows first; inside (networks, pool); y; accuracies on both sides."""
    file = folder / f"answers-{shadows}-{victims}.pt" if folder else None
    if file and file.exists():
        kept: dict[str, Tensor] = torch.load(file, weights_only=True)
        return kept
    whole = load_data("digits")[0].split("train")
    pool, rest = whole.first(800), whole.at(torch.arange(800, min(len(whole), 1000)))
    inside = torch.cat([Membership(None, 0, models=shadows).each(pool.ids),
                        torch.stack([Membership(None, 1 + k).inside(pool.ids) for k in range(victims)])])  # fmt: skip
    nets = [perceptron(k) for k in range(len(inside))]
    rows = [one.nonzero().flatten() for one in inside]
    fitted_together(nets, Training(pool, pool, 0), rows, Recipe(EPOCHS, half_cosine(0.1, EPOCHS), batch=64))
    x = torch.cat([split.images(torch.arange(len(split))) for split in (pool, rest)])
    found = {"logits": torch.stack([net(x) for net in nets]), "inside": inside, "y": torch.cat([pool.y, rest.y])}
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(found, file)
    return found


def ours(answers: dict[str, Tensor], shadows: int, victim: int) -> dict[str, Tensor]:
    """Scores (pool,) of one victim by our attacks."""
    inside, y = answers["inside"][:shadows], answers["y"]
    n = inside.shape[1]
    x = (torch.arange(len(y)) / 1000).view(-1, 1, 1, 1).expand(-1, 1, 3, 3)
    nets = [Remembered(logits) for logits in answers["logits"][:shadows]]
    own = Shadows(inside, lambda z: torch.stack([net(z) for net in nets]), Split.of(x[n:].contiguous(), y[n:]))
    rng = Rng.of(0, "peer", torch.arange(n))
    model = Oracle.over(Remembered(answers["logits"][shadows + victim]), Access.SCORES, rng, width=256)

    def told(attack: Callable[..., Tensor], **given: Any) -> Tensor:
        return attack(model, x[:n], y[:n], rng=rng, shadows=own, **given)

    found = {"rmia offline": told(rmia, online=False), "ratio offline": told(ratio, online=False),
             "rmia online": told(rmia), "ratio online": told(ratio), "bavaria online": told(bavaria, query_views=1),
             "bavaria offline": told(bavaria, query_views=1, online=False)}  # fmt: skip
    for variance in ("example", "fixed"):
        found[f"lira online, {variance}"] = told(lira, variance=variance, query_views=1)
        found[f"lira offline, {variance}"] = told(lira, variance=variance, query_views=1, online=False)
    return found


def loaded(file: Path) -> ModuleType:
    """The file as a module, without what it does when it is run by itself."""
    module = ModuleType(file.stem)
    source = file.read_text().split('\nload_data("exp')[0]
    exec(compile(source, str(file), "exec"), vars(module))  # noqa: S102  a peer's own script, named by the user
    return module


def lira_theirs(plot: ModuleType, answers: dict[str, Tensor], shadows: int) -> dict[str, Any]:
    """Scores (victims * pool,) by the authors' script, larger for members, and the same corrected."""
    n = answers["inside"].shape[1]
    phi = scaled_logit(answers["logits"][:, :n], answers["y"][:n]).numpy()[:, :, None]
    keep = answers["inside"].numpy()
    given = keep[:shadows], phi[:shadows], keep[shadows:], phi[shadows:]
    found = {}
    for variance, fixed in (("example", False), ("fixed", True)):
        found[f"lira online, {variance}"] = -np.array(plot.generate_ours(*given, fix_variance=fixed)[0])
        found[f"lira offline, {variance}"] = -np.array(plot.generate_ours_offline(*given, fix_variance=fixed)[0])
    ins, outs = (np.stack([phi[:shadows][side[:, j], j, 0] for j in range(n)], 1)
                 for side in (keep[:shadows], ~keep[:shadows]))  # fmt: skip
    of = phi[shadows:, :, 0]

    def density(values: Any, deviation: Any) -> Any:
        return norm.logpdf(of, np.median(values, 0), deviation + 1e-30)

    found["lira online, fixed, corrected"] = (density(ins, ins.std()) - density(outs, outs.std())).ravel()
    for variance, deviation in (("example", outs.std(0)), ("fixed", outs.std())):
        tail = norm.logcdf(of, np.median(outs, 0), deviation + 1e-30)
        found[f"lira offline, {variance}, corrected"] = tail.ravel()
    return found


def rmia_theirs(code: ModuleType, answers: dict[str, Tensor], shadows: int, victim: int) -> Any:
    """Scores (pool,) of one victim by the authors' code, at the same a."""
    n = answers["inside"].shape[1]
    p = answers["logits"].double().softmax(-1)
    p = p.gather(2, answers["y"].expand(len(p), -1)[:, :, None]).squeeze(2).T.numpy()
    own, theirs, keep = p[:, shadows + victim], p[:, :shadows], answers["inside"][:shadows].T.numpy()
    return code.run_rmia(own[:n], theirs[:n], keep, own[n:], theirs[n:], 0.3)


def line(name: str, score: Any, member: Any) -> str:
    """One row of the table."""
    said = [f"{auc(score, member):.4f}"]
    for fpr in (0.01, 0.001):
        found = tpr_at(score, member, fpr)
        k, n = round(found * int(member.sum())), int(member.sum())
        lo, hi = stats.clopper_pearson(k, n)
        resolved = int((~member).sum()) >= math.ceil(3 / fpr)
        said.append(f"{100 * found:.2f} % ({100 * lo:.2f}-{100 * hi:.2f})" if resolved else "could not be measured")
    return f"{name:46} AUC {said[0]}  at 1 %: {said[1]:24} at 0.1 %: {said[2]}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lira", type=Path)
    parser.add_argument("--rmia", type=Path)
    parser.add_argument("--shadows", type=int, default=64)
    parser.add_argument("--victims", type=int, default=8)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        with torch.enable_grad():
            answers = answered(given.shadows, given.victims, given.out)
        answers = {name: value.detach() for name, value in answers.items()}
        each = [ours(answers, given.shadows, k) for k in range(given.victims)]
    inside, n = answers["inside"], answers["inside"].shape[1]
    right = answers["logits"][:, :n].argmax(-1) == answers["y"][:n]
    member = inside[given.shadows :].flatten().numpy()
    sides = {"members": float(right[inside].float().mean()), "others": float(right[~inside].float().mean())}
    print(json.dumps({"shadows": given.shadows, "victims": given.victims, "examples": n, "right": sides}))
    rows = {f"{name}, ours": torch.cat([scores[name] for scores in each]).numpy() for name in each[0]}
    if given.lira:
        theirs = lira_theirs(loaded(given.lira), answers, given.shadows)
        rows |= {f"{name}, authors'": score for name, score in theirs.items()}
    if given.rmia:
        code = loaded(given.rmia)
        scores = [rmia_theirs(code, answers, given.shadows, k) for k in range(given.victims)]
        rows["rmia offline, authors'"] = np.concatenate(scores)
    for name in sorted(rows):
        print(line(name, rows[name], member))


if __name__ == "__main__":
    main()
