"""Advantage actor-critic on a corridor with preallocated rollout buffers."""
import torch
import torch.nn as nn
from torch.distributions import Categorical

torch.set_num_threads(2)
torch.manual_seed(50)
torch.use_deterministic_algorithms(True)
ENVS, HORIZON, CELLS = 8, 16, 9


class Corridor:
    def __init__(self):
        self.cell = torch.randint(0, CELLS, (ENVS,))

    def obs(self):
        return nn.functional.one_hot(self.cell, CELLS).float()

    def step(self, action):
        self.cell = (self.cell + 2 * action - 1).clamp(0, CELLS - 1)
        reward = (self.cell == CELLS - 1).float()
        self.cell = torch.where(reward > 0, torch.randint(0, CELLS - 1, (ENVS,)), self.cell)
        return reward


class Buffer:
    def __init__(self):
        self.obs = torch.empty(HORIZON, ENVS, CELLS)
        self.action = torch.empty(HORIZON, ENVS, dtype=torch.long)
        self.reward = torch.empty(HORIZON, ENVS)
        self.target = torch.empty(HORIZON, ENVS)

    def discount(self, bootstrap, gamma=0.95):
        for t in reversed(range(HORIZON)):
            bootstrap = self.reward[t] + gamma * bootstrap
            self.target[t] = bootstrap


class ActorCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.pi, self.v = nn.Linear(CELLS, 32), nn.Linear(32, 2), nn.Linear(32, 1)
        self.forbidden = torch.zeros(CELLS, 2)
        self.forbidden[0, 0] = float("-inf")

    def forward(self, obs):
        h = torch.tanh(self.body(obs))
        wall = self.forbidden[obs.argmax(-1)]
        return torch.softmax(self.pi(h) + wall, -1), self.v(h).squeeze(-1)


env, net, buffer = Corridor(), ActorCritic(), Buffer()
optimizer = torch.optim.RMSprop(net.parameters(), lr=3e-3, alpha=0.99, eps=1e-5)
for update in range(40):
    with torch.no_grad():
        for t in range(HORIZON):
            obs = env.obs()
            action = Categorical(probs=net(obs)[0]).sample()
            buffer.obs[t], buffer.action[t] = obs, action
            buffer.reward[t] = env.step(action)
        buffer.discount(net(env.obs())[1])
    probs, value = net(buffer.obs)
    logp = torch.log(probs.gather(-1, buffer.action[..., None]).squeeze(-1))
    advantage = buffer.target - value
    loss = -(logp * advantage.detach()).mean() + 0.5 * advantage.pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if update % 8 == 0:
        print(f"update {update} reward {buffer.reward.mean():.3f} loss {loss.item():.4f}")
