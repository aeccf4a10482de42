import pytest
import torch
from fakes import context, digit_data, encoder
from pydantic import ValidationError
from torch import nn

from mimcore.errors import UserError
from mimcore.evaluation import attentive
from mimcore.evaluation.attentive import AttentiveHead, Config


def short(**options):
    plain = {"crop_scale": (1.0, 1.0), "mirror": False, "num_heads": 2}
    return Config(**({"pool": "x", "images_seen": 640, "batch_size": 32} | plain | options))


def test_the_query_reads_as_torchs_own_attention():
    torch.manual_seed(0)
    head, tokens = AttentiveHead(12, 5, 3), torch.randn(4, 7, 12)
    peer = nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        peer.in_proj_weight.copy_(torch.cat([head.q.weight, head.kv.weight]))
        peer.in_proj_bias.copy_(torch.cat([head.q.bias, head.kv.bias]))
        peer.out_proj.weight.copy_(torch.eye(12))
        query, normed = head.query.expand(4, -1, -1), head.norm(tokens)
        x = query + peer(query, normed, normed)[0]
        expected = (x + head.mlp(head.norm_mlp(x)))[:, 0]
        torch.testing.assert_close(head.pool(tokens), expected)
        # It knows nothing of the order of the patches.
        torch.testing.assert_close(head(tokens.flip(1)), head(tokens))


def test_it_finds_what_only_one_patch_tells():
    """The mean over many patches drowns what attention picks out."""
    torch.manual_seed(0)
    labels = torch.arange(256) % 2
    tokens = torch.randn(256, 64, 16)
    tokens[torch.arange(256), torch.randint(0, 64, (256,)), 0] = 6.0 * (2 * labels - 1)
    head = AttentiveHead(16, 2, 2)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    for _ in range(200):
        loss = nn.functional.cross_entropy(head(tokens), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float((head(tokens).argmax(1) == labels).float().mean()) > 0.95


def test_it_learns_digits_and_leaves_the_encoder_alone(tmp_path):
    subject, config = encoder(), short(images_seen=12800, learning_rate=1e-2)
    before = {name: tensor.clone() for name, tensor in subject.module.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    found = attentive.evaluate(subject, config, digit_data(), context(tmp_path))
    assert torch.equal(torch.get_rng_state(), state)
    assert found["top1"].value > 0.45  # of patches of untrained weights, 0.1 by chance
    assert all(torch.equal(before[name], tensor) for name, tensor in subject.module.state_dict().items())
    assert all(parameter.grad is None for parameter in subject.module.parameters())


def test_a_rerun_is_equal_whatever_reads_ahead(tmp_path):
    config, data = short(images_seen=128, crop_scale=(0.5, 1.0), mirror=True), digit_data(60, 40)
    first, second = (attentive.evaluate(encoder(), config, data, context(tmp_path, workers=w)) for w in (0, 2))
    assert first == second


def test_impossible_options_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"tasks\.t\.num_heads: 3 does not divide the encoder's width of 32"):
        attentive.evaluate(encoder(), short(num_heads=3), digit_data(10, 5), context(tmp_path))
    with pytest.raises(ValidationError, match="of encoders that are trained"):
        short(layer_decay=0.5)
    with pytest.raises(ValidationError, match="must rise"):
        short(crop_scale=(0.5, 0.2))
