"""PPO on a point-mass reaching task: residual Gaussian policy over a proportional controller, two optimizers."""
import torch
import torch.nn as nn
from torch.distributions import Normal

torch.set_num_threads(2)
torch.manual_seed(7)
ENVS, HORIZON, GAMMA, LAM, CLIP = 16, 25, 0.98, 0.95, 0.2


class PointMass:
    def reset(self):
        self.pos, self.vel = 4 * torch.randn(ENVS, 2), torch.zeros(ENVS, 2)
        return self.observe()

    def observe(self):
        return torch.cat([self.pos, self.vel], -1)

    def step(self, action):
        self.vel = 0.8 * self.vel + 0.2 * action
        self.pos = self.pos + 0.3 * self.vel
        return self.observe(), -self.pos.pow(2).sum(-1)


class Actor(nn.Module):
    def __init__(self):
        super().__init__()
        self.mu = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2))
        self.log_std = nn.Parameter(torch.full((2,), -2.0))

    def forward(self, obs):
        return Normal(self.mu(obs) - 2.0 * obs[..., :2], self.log_std.exp())


actor = Actor()
critic = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 1))
actor_opt = torch.optim.Adam(actor.parameters(), lr=3e-3)
critic_opt = torch.optim.Adam(critic.parameters(), lr=3e-3)
env = PointMass()


@torch.no_grad()
def rollout():
    obs = env.reset()
    store = {k: [] for k in ("obs", "act", "logp", "rew", "val")}
    for _ in range(HORIZON):
        dist = actor(obs)
        act = dist.sample().clamp(-1.0, 1.0)
        store["obs"].append(obs)
        store["act"].append(act)
        store["logp"].append(dist.log_prob(act).sum(-1))
        store["val"].append(critic(obs).squeeze(-1))
        obs, rew = env.step(act)
        store["rew"].append(rew)
    batch = {k: torch.stack(v) for k, v in store.items()}
    adv, last, nxt = [], 0.0, critic(obs).squeeze(-1)
    for t in reversed(range(HORIZON)):
        delta = batch["rew"][t] + GAMMA * nxt - batch["val"][t]
        last = delta + GAMMA * LAM * last
        nxt = batch["val"][t]
        adv.insert(0, last)
    batch["adv"] = torch.stack(adv)
    batch["ret"] = batch["adv"] + batch["val"]
    return {k: v.flatten(0, 1) for k, v in batch.items()}


for update in range(30):
    data = rollout()
    adv = (data["adv"] - data["adv"].mean()) / (data["adv"].std() + 1e-8)
    for _ in range(6):
        perm = torch.randperm(ENVS * HORIZON)
        for idx in perm.split(100):
            dist = actor(data["obs"][idx])
            logp = dist.log_prob(data["act"][idx]).sum(-1)
            ratio = torch.exp((logp - data["logp"][idx]).clamp(-20, 5))
            surrogate = torch.min(ratio * adv[idx], ratio.clamp(1 - CLIP, 1 + CLIP) * adv[idx])
            policy_loss = -surrogate.mean()
            actor_opt.zero_grad()
            policy_loss.backward()
            actor_opt.step()
            value_loss = (critic(data["obs"][idx]).squeeze(-1) - data["ret"][idx]).pow(2).mean()
            critic_opt.zero_grad()
            value_loss.backward()
            critic_opt.step()
    if update % 2 == 0:
        print(f"update {update} reward {data['rew'].mean():.3f} policy {policy_loss.item():.4f}")
