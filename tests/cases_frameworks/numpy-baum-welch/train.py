"""Baum-Welch (EM) for a two-state Gaussian hidden Markov model of river levels."""
import numpy as np


class HMM:
    def __init__(self, states=2):
        self.trans = np.array([[0.9, 0.1], [0.2, 0.8]])
        self.start = np.full(states, 1.0 / states)
        self.mean = np.array([-1.0, 2.0])
        self.std = np.array([1.0, 1.0])

    def emission(self, x):
        z = (x[:, None] - self.mean) / self.std
        return np.exp(-0.5 * z ** 2) / (self.std * np.sqrt(2 * np.pi))

    def forward_backward(self, likelihood):
        n = len(likelihood)
        alpha, beta = np.zeros((n, 2)), np.ones((n, 2))
        alpha[0] = self.start * likelihood[0]
        for t in range(1, n):
            alpha[t] = (alpha[t - 1] @ self.trans) * likelihood[t]
        for t in range(n - 2, -1, -1):
            beta[t] = self.trans @ (likelihood[t + 1] * beta[t + 1])
        return alpha, beta

    def em_step(self, x):
        likelihood = self.emission(x)
        alpha, beta = self.forward_backward(likelihood)
        joint = alpha * beta
        gamma = joint / joint.sum(axis=1, keepdims=True)
        xi = alpha[:-1, :, None] * self.trans * (likelihood[1:] * beta[1:])[:, None, :]
        xi = xi / xi.sum(axis=(1, 2), keepdims=True)
        self.trans = xi.sum(axis=0) / gamma[:-1].sum(axis=0)[:, None]
        self.trans /= self.trans.sum(axis=1, keepdims=True)
        self.start = gamma[0]
        weight = gamma.sum(axis=0)
        self.mean = (gamma * x[:, None]).sum(axis=0) / weight
        self.std = np.sqrt((gamma * (x[:, None] - self.mean) ** 2).sum(axis=0) / weight) + 1e-3
        return np.log(alpha[-1].sum())


def levels(n, rng):
    state, out = 0, []
    for _ in range(n):
        if rng.uniform() < 0.08:
            state = 1 - state
        out.append(rng.normal([0.0, 3.0][state], 0.8))
    return np.array(out)


rng = np.random.default_rng(2)
hmm = HMM()
for year, n in enumerate([120, 200, 365, 900, 365]):
    x = levels(n, rng)
    for sweep in range(3):
        loglik = hmm.em_step(x)
    print("year", year, "log-likelihood", loglik, "means", hmm.mean.round(3))
