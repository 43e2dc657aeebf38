"""REINFORCE with normalised returns on a slippery plank walk."""
import numpy as np
import torch
import torch.nn as nn
from torch.distributions import Categorical

torch.set_num_threads(2)


class Plank:
    """Walk to the right end; leaning too far to a side ends the episode."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def reset(self):
        self.x, self.lean, self.t = 0.0, self.rng.normal(0, 0.35), 0
        return self.state()

    def state(self):
        return torch.tensor([self.x / 10, self.lean, self.t / 60], dtype=torch.float32)

    def step(self, action):
        self.t += 1
        self.x += 0.5
        self.lean += (-0.25, 0.0, 0.25)[action] + self.rng.normal(0, 0.15)
        fallen = abs(self.lean) > 1.0
        return self.state(), -1.0 if fallen else 1.0, fallen or self.t >= 60


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 32)
        self.out = nn.Linear(32, 3)

    def forward(self, s):
        return Categorical(logits=self.out(torch.tanh(self.fc(s))))


def discounted(rewards, gamma=0.97):
    out, acc = [], 0.0
    for r in reversed(rewards):
        acc = r + gamma * acc
        out.append(acc)
    returns = torch.tensor(out[::-1])
    return (returns - returns.mean()) / (returns.std() + 1e-6)


def run_episode(env, policy):
    state, done = env.reset(), False
    log_probs, rewards = [], []
    while not done:
        dist = policy(state)
        action = dist.sample()
        state, reward, done = env.step(action.item())
        log_probs.append(dist.log_prob(action))
        rewards.append(reward)
    return torch.stack(log_probs), rewards


torch.manual_seed(3)
env, policy = Plank(seed=5), Policy()
optimizer = torch.optim.Adam(policy.parameters(), lr=5e-3)
lengths = []
for episode in range(160):
    log_probs, rewards = run_episode(env, policy)
    loss = -(log_probs * discounted(rewards)).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    lengths.append(len(rewards))
    if (episode + 1) % 20 == 0:
        print(f"episode {episode + 1} mean length {np.mean(lengths[-20:]):.1f}")
