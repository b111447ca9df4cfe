"""The classifier and its tasks: shapes, sizes, and that probabilities are probabilities."""

import pytest
import torch
from zoo_judge.config import JudgeConfig
from zoo_judge.model import Block, Classify, Features, Judge, to_float


@pytest.mark.parametrize("channels, classes, widths", [(1, 10, (8, 16)), (3, 2, (16,)), (1, 5, (8, 8, 24))])
def test_features_and_logits_follow_the_config(channels, classes, widths):
    judge = Judge(JudgeConfig(image_channels=channels, num_classes=classes, widths=widths))
    x = torch.randn(3, channels, 28, 28)
    assert judge.features(x).shape == (3, widths[-1])
    assert judge(x).shape == (3, classes)


@pytest.mark.parametrize("height, width", [(8, 8), (13, 57), (64, 33)])
def test_any_size_is_judged(height, width):
    judge = Judge(JudgeConfig(widths=(8, 16, 24)))
    image = torch.randint(0, 256, (2, height, width, 1), dtype=torch.uint8)
    label, probabilities = Classify(judge)(image)
    assert label.shape == (2,) and label.dtype == torch.int64
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2))
    assert torch.equal(label, probabilities.argmax(dim=1))
    assert torch.equal(Features(judge)(image), judge.features(to_float(image)))


def test_a_picture_is_judged_the_same_alone_and_in_a_batch():
    judge = Judge(JudgeConfig(widths=(8, 16))).train()  # no batch statistics, so that training mode is no other
    x = torch.randn(4, 1, 12, 12)
    torch.testing.assert_close(judge(x), torch.cat([judge(one[None]) for one in x]))


def test_a_block_adds_to_what_it_gets():
    block = Block(8)
    torch.nn.init.zeros_(block.conv_2.weight)
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(block(x), x)
