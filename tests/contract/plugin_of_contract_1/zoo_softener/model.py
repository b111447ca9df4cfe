import torch
import torch.nn.functional as F
from torch import nn

from zoo.build.optim import WeightAverage, cosine_rate


class Softener(nn.Module):
    def __init__(self):
        super().__init__()
        self.share = nn.Parameter(torch.rand(1))

    def forward(self, x):
        return x + self.share * (F.avg_pool2d(x, 3, stride=1, padding=1) - x)


class Soften(nn.Module):
    def __init__(self, softener):
        super().__init__()
        self.softener = softener

    def forward(self, image):
        soft = self.softener(image.permute(0, 3, 1, 2).float())
        return soft.clamp(0, 255).round().permute(0, 2, 3, 1).to(torch.uint8)


class SoftenerTrainer:
    """Learns to soften nothing."""

    def __init__(self, request):
        self.settings, self.module = request.settings, request.module
        self.network = request.distribute(request.module)
        self.optimizer = torch.optim.SGD(request.module.parameters(), lr=request.settings["learning_rate"])
        self.average = WeightAverage(request.module, 0.5)

    def step(self, batch, step, generator):
        x = batch.images.permute(0, 3, 1, 2).float() / 255
        loss = F.mse_loss(self.network(x), x)
        for group in self.optimizer.param_groups:
            group["lr"] = cosine_rate(step, self.settings["steps"], self.settings["learning_rate"])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.average.update(step)
        return {"loss": loss.detach()}

    def state_dict(self):
        return {"module": self.module.state_dict(), "average": self.average.module.state_dict()}

    def load_state_dict(self, state):
        self.module.load_state_dict(state["module"])
        self.average.module.load_state_dict(state["average"])

    def trained_module(self):
        return self.average.module
