"""Left-to-right hidden Markov model with Gaussian emissions, maximum likelihood by gradient descent."""
import torch

torch.set_num_threads(2)
torch.manual_seed(10)
STATES, FRAMES = 4, 30


def phone_recordings(n=120):
    switch = torch.sort(torch.randint(3, FRAMES - 3, (n, STATES - 1)), dim=1).values
    t = torch.arange(FRAMES)
    state = (t[None, :, None] >= switch[:, None, :]).sum(-1)
    level = torch.tensor([-2.0, 1.0, 3.0, -0.5])
    return level[state] + 0.6 * torch.randn(n, FRAMES)


def log_sum_exp(x, dim):
    m = x.max(dim=dim, keepdim=True).values
    return (x - m).exp().sum(dim=dim).log() + m.squeeze(dim)


def transition_matrix(logits):
    s = torch.arange(STATES)
    allowed = (s[None, :] == s[:, None]) | (s[None, :] == s[:, None] + 1)
    return logits.masked_fill(~allowed, float("-inf")).log_softmax(dim=1)


def emission(frames, mean, log_scale):
    z = (frames[..., None] - mean) * torch.exp(-log_scale)
    return -0.5 * z ** 2 - log_scale - 0.9189385


def forward_algorithm(frames, params):
    log_a = transition_matrix(params["trans"])
    log_b = emission(frames, params["mean"], params["log_scale"])
    alpha = torch.full((len(frames), STATES), float("-inf"))
    alpha[:, 0] = log_b[:, 0, 0]
    for t in range(1, FRAMES):
        alpha = log_sum_exp(alpha[:, :, None] + log_a, dim=1) + log_b[:, t]
    return alpha[:, -1]


data = phone_recordings()
params = {
    "trans": torch.zeros(STATES, STATES),
    "mean": torch.linspace(-1.0, 1.0, STATES),
    "log_scale": torch.zeros(STATES),
}
for p in params.values():
    p.requires_grad_()
rates = {"trans": 0.5, "mean": 0.2, "log_scale": 0.05}

for it in range(25):
    batch = data[torch.randperm(len(data))[:40]]
    nll = -forward_algorithm(batch, params).mean() / FRAMES
    grads = torch.autograd.grad(nll, list(params.values()))
    with torch.no_grad():
        for (name, p), g in zip(params.items(), grads):
            p -= rates[name] * g
    if it % 4 == 0:
        print(f"iter {it:2d} nll per frame {nll.item():.4f} means {params['mean'].tolist()}")
