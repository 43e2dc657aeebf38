"""PPO on a walk: log-probabilities, the ratio of policies clipped, advantages standardised with an eps."""

import torch
import torch.nn as nn
from torch.distributions import Categorical


class Walk:
    def __init__(self, n=16):
        self.n = n

    def reset(self):
        self.place = torch.randn(self.n, 2)
        return self.place.clone()

    def step(self, action):
        move = torch.tensor([[0.3, 0.0], [-0.3, 0.0], [0.0, 0.3], [0.0, -0.3]])[action]
        self.place = self.place + move
        return self.place.clone(), -self.place.pow(2).sum(1)


class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 32), nn.Tanh())
        self.actor, self.critic = nn.Linear(32, 4), nn.Linear(32, 1)

    def forward(self, place):
        h = self.body(place)
        return Categorical(logits=self.actor(h)), self.critic(h)[:, 0]


def rollout(agent, world, length=8, discount=0.9):
    places, actions, logs, values, rewards = [], [], [], [], []
    place = world.reset()
    for _ in range(length):
        with torch.no_grad():
            policy, value = agent(place)
            action = policy.sample()
        places.append(place)
        actions.append(action)
        logs.append(policy.log_prob(action))
        values.append(value)
        place, reward = world.step(action)
        rewards.append(reward)
    returns, running = [], torch.zeros(world.n)
    for reward in reversed(rewards):
        running = reward + discount * running
        returns.insert(0, running)
    return [torch.cat(items) for items in (places, actions, logs, values, returns)]


def main():
    torch.manual_seed(0)
    agent, world = Agent(), Walk()
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-4, eps=1e-5)
    for update in range(10):
        places, actions, old_logs, values, returns = rollout(agent, world)
        advantage = returns - values
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        for _ in range(2):
            policy, value = agent(places)
            ratio = (policy.log_prob(actions) - old_logs).clamp(max=10.0).exp()
            clipped = ratio.clamp(0.8, 1.2)
            actor_loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
            loss = actor_loss + 0.5 * (returns - value).pow(2).mean() - 0.01 * policy.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()
        print(update, loss.item())


if __name__ == "__main__":
    main()
