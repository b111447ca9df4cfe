"""A loop whose length is known only when the graph runs.

The four kinds of sampler, each as the loop of a task's `forward`. All of them start from a seed, int64 [batch], so that
they give the same in every language. The loop's counter is the number of the noise's stream: each step draws its own.

A diffusion or flow model, here Euler's method in `steps` equal steps (int64 []), from noise to `x` float32 [batch,
channels, height, width]:

    def forward(self, seed, steps):
        def more(i, x):
            return i < steps

        def step(i, x):
            t = (i.to(torch.float32) / steps).expand(x.shape[0])  # [batch], 0 .. 1
            return i + 1, x + self.network(x, t) / steps

        noise = normal(seed, self.shape)
        return while_loop(more, step, (torch.zeros_like(steps), noise))[1]

A sampler that adds noise at each step, such as Langevin dynamics on an energy:

    def forward(self, seed, steps):
        def more(i, x):
            return i < steps

        def step(i, x):
            return i + 1, x - self.rate * self.gradient(x) + self.noise * normal(seed, self.shape, stream=i + 1)

        return while_loop(more, step, (torch.zeros_like(steps), normal(seed, self.shape)))[1]

An autoregressive model, which draws one token at a time in raster order. A token gets to its place by a comparison of
positions with the counter, since `tokens[:, int(i)] = …` would fix the place when it is traced. The draw inverts the
cumulative distribution:

    def forward(self, seed, temperature):
        positions = torch.arange(self.length)  # [length]

        def more(i, tokens):
            return i < self.length

        def step(i, tokens):
            logits = self.network(tokens).index_select(1, i.reshape(1)).squeeze(1)  # [batch, codes]
            shares = torch.softmax(logits / temperature.unsqueeze(1), dim=1).cumsum(dim=1)
            drawn = (shares[:, :-1] < uniform(seed, (1,), stream=i)).sum(dim=1, keepdim=True)  # [batch, 1]
            return i + 1, torch.where(positions == i, drawn, tokens)

        start = seed.unsqueeze(1) * torch.zeros_like(positions)  # int64 [batch, length], all 0
        return while_loop(more, step, (torch.zeros((), dtype=torch.int64), start))[1]

A masked model, which keeps the surest tokens of each step (`codes` stands for a masked one) until none is masked:

    def forward(self, seed, steps):
        def more(i, tokens):
            return i < steps

        def step(i, tokens):
            logits = self.network(tokens)  # [batch, length, codes]
            draws = uniform(seed, (self.length, self.codes), stream=i)
            drawn = (logits - torch.log(-torch.log(draws))).argmax(dim=2)  # Gumbel's trick
            sure = logits.gather(2, drawn.unsqueeze(2)).squeeze(2).masked_fill(tokens < self.codes, torch.inf)
            kept = ((i + 1) * self.length) // steps
            rank = sure.argsort(dim=1, descending=True).argsort(dim=1)  # 0: the surest
            return i + 1, torch.where((tokens == self.codes) & (rank < kept), drawn, tokens)

        start = seed.unsqueeze(1) * torch.zeros(self.length, dtype=torch.int64) + self.codes
        return while_loop(more, step, (torch.zeros_like(steps), start))[1]
"""

from collections.abc import Callable

import torch
from torch import Tensor

Carried = tuple[Tensor, ...]


def while_loop(more: Callable[..., Tensor], body: Callable[..., Carried], carried: Carried) -> Carried:
    """`torch.while_loop` during an export, which gives an ONNX Loop; otherwise the same in Python.

    Outside an export, torch would compile the loop at every call, which takes seconds.

    Args:
        more: from the carried tensors to bool []: whether to continue.
        body: from the carried tensors to the next ones, of the same shape and dtype; new tensors, not its arguments.
        carried: the tensors that the loop starts with, of any shape: a counter, int64 [], and what it changes.

    Returns:
        The carried tensors after the last pass; those of the start, if there was none.
    """
    if torch.compiler.is_exporting():
        return torch.while_loop(more, body, carried)
    while more(*carried):
        carried = body(*carried)
    return carried
