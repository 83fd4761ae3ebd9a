"""Last layers learnt anew: one head is the plain last layer, several are taught apart and chosen among."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robustsuite.defenses.harden.last_layer_retraining import last_layer_retraining
from robustsuite.defenses.train.last_layer_ensemble import last_layer_ensemble
from robustsuite.defenses.train.shortcut_augmentation import shortcut_augmentation
from robustsuite.errors import BadValue, UnknownName, Unsupported
from robustsuite.methods.edits import EDITS, edits
from robustsuite.methods.last_layers import LastLayers, learn, with_last_layers
from robustsuite.serve.data import Dataset, InputSpace, Split
from robustsuite.serve.lifecycle import Lifecycle
from robustsuite.serve.models import Model, Training, as_it_is, ready
from robustsuite.serve.stages import applied
from robustsuite.serve.training import accuracy


def net(classes: int = 2) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(144, 6), nn.ReLU(), nn.Linear(6, classes)
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), *head)
    for p in made.parameters():
        nn.init.normal_(p, std=0.3, generator=generator)
    return ready(made)


X = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def training(seed: int = 0) -> Training:
    split = Split.of(X, (X[:, 0].mean((1, 2)) > X[:, 1].mean((1, 2))).long())
    return Training(split, split, seed)


@pytest.mark.parametrize("heads", [1, 4])
def test_before_it_has_learnt_it_is_the_network(heads: int) -> None:
    made, layers = with_last_layers(net(), (3, 8, 8), heads)
    assert torch.allclose(made(X), net()(X), atol=1e-5)
    assert layers.each(torch.rand(5, 6)).shape == (5, heads, 2)


def test_one_head_is_a_last_layer_trained_on() -> None:
    given = {"epochs": 5, "lr": 0.05}
    ensemble = last_layer_ensemble(as_it_is, shortcuts="", **given)(net(), training())
    plain = last_layer_retraining(net(), training(), **given)
    assert torch.allclose(ensemble(X), plain(X), atol=1e-6)
    assert not torch.allclose(plain(X), net()(X), atol=1e-2)
    assert torch.equal(plain[0].weight, net()[0].weight)  # type: ignore[index]
    shaped = last_layer_ensemble(as_it_is, shortcuts="").shape(net(), training())  # type: ignore[attr-defined]
    assert {k: v.shape for k, v in shaped.state_dict().items()} == {
        k: v.shape for k, v in ensemble.state_dict().items()
    }


def test_each_head_learns_from_its_own_edit_and_the_detector_tells_them_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 2
    told = (2.0 * y - 1)[:, None] * torch.tensor([[1.0, 0.0]]) + 0.1 * torch.randn(400, 2, generator=generator)
    # with the edit the first feature says the opposite, and a third says that there is an edit
    f = torch.stack([torch.cat([told, torch.zeros(400, 1)], 1), torch.cat([-told, torch.ones(400, 1)], 1)])
    layers = LastLayers(nn.Linear(3, 2).requires_grad_(False), 2)
    learn(layers, [f], y, 60, 0.1, 0)
    for k in (0, 1):
        assert float((layers(f[k]).argmax(1) == y).float().mean()) == 1.0
        assert float((layers.chosen(f[k]).argmax(1) == k).float().mean()) == 1.0
    single = LastLayers(nn.Linear(3, 2).requires_grad_(False), 1)
    learn(single, [f[:1]], y, 60, 0.1, 0)
    assert float((single(f[1]).argmax(1) == y).float().mean()) == 0.0


def test_retraining_learns_the_val_split_and_leaves_the_body() -> None:
    before, after = accuracy(net(), training().val), accuracy(last_layer_retraining(net(), training()), training().val)
    assert after > before
    with pytest.raises(Unsupported, match="linear layer's output"):
        last_layer_retraining(ready(nn.Sequential(nn.Flatten(), nn.Linear(192, 2), nn.Sigmoid())), training())


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_stays_in_the_box_and_is_drawn_from_its_generator_alone(name: str) -> None:
    x = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    before = x.clone()
    one, two, other = (edits(name)[0](x, torch.Generator().manual_seed(s)) for s in (5, 5, 6))
    assert one.shape == x.shape
    assert 0 <= float(one.min()) <= float(one.max()) <= 1
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(x, before)


def test_what_each_edit_leaves_alone() -> None:
    x = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    marked, grounded, textured = (edit(x, torch.Generator().manual_seed(0)) for edit in EDITS.values())
    assert bool((marked >= x - 1e-6).all())
    assert torch.allclose(grounded[:, :, 7:9, 7:9], x[:, :, 7:9, 7:9], atol=1e-6)
    corner = grounded[:, :, 0, 0]
    assert all(any(torch.allclose(c, other) for other in x[:, :, 0, 0]) for c in corner)
    same = x[:1].expand(6, -1, -1, -1)
    assert torch.allclose(EDITS["texture"](same, torch.Generator().manual_seed(0)), same, atol=1e-6)
    assert textured.shape == x.shape


def test_an_augmented_training_sees_edited_pictures_and_wrong_words_are_refused() -> None:
    def seen(shortcuts: str) -> Tensor:
        made = shortcut_augmentation(as_it_is, shortcuts=shortcuts, epochs=2, augment=False)(net(), training())
        weight: Tensor = made[0].weight  # type: ignore[index]
        return weight

    assert not torch.equal(seen("watermark"), seen("background"))
    assert torch.equal(seen("watermark+texture"), seen("watermark+texture"))
    with pytest.raises(UnknownName, match="watermark"):
        edits("watermarks")
    with pytest.raises(BadValue, match="a shortcut to break"):
        shortcut_augmentation(as_it_is, shortcuts="")
    with pytest.raises(BadValue, match="draws"):
        last_layer_ensemble(as_it_is, draws=0)


def test_what_was_learnt_is_read_back_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path))
    split = training().train
    data = Dataset("toy", InputSpace(3, 8, 8, 2), ("a", "b"), dict.fromkeys(("train", "val", "test"), split))
    model = Model("toy", net(), data.space, "0" * 64)
    stack = applied("last_layer_ensemble", {"epochs": 2, "draws": 1}), applied("last_layer_retraining", {"epochs": 2})
    first, again = (Lifecycle(model, data, stack[:1]).trained()(X) for _ in range(2))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    assert torch.equal(first, again)
    with pytest.raises(Unsupported, match="linear layer's output"):  # heads that are weighed are no linear layer
        Lifecycle(model, data, stack).trained()
