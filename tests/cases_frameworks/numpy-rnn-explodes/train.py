import numpy as np

rng = np.random.default_rng(0)
T, D, H = 60, 4, 32
X = rng.normal(size=(200, T, D))
Y = X[:, :, 0].sum(1, keepdims=True)
Wx, Wh, Wo = rng.normal(size=(D, H)) * 0.3, rng.normal(size=(H, H)) * 0.35, rng.normal(size=(H, 1)) * 0.3
lr = 1e-3

for epoch in range(20):
    epoch_loss = 0
    for i in range(0, 200, 20):
        x, y = X[i:i + 20], Y[i:i + 20]
        hs = [np.zeros((20, H))]
        for t in range(T):
            hs.append(np.maximum(x[:, t] @ Wx + hs[-1] @ Wh, 0))
        pred = hs[-1] @ Wo
        loss = np.mean((pred - y) ** 2)
        epoch_loss += loss
        d = 2 * (pred - y) / len(y)
        gWo = hs[-1].T @ d
        dh = d @ Wo.T
        gWx, gWh = np.zeros_like(Wx), np.zeros_like(Wh)
        for t in range(T - 1, -1, -1):
            dz = dh * (hs[t + 1] > 0)
            gWx += x[:, t].T @ dz
            gWh += hs[t].T @ dz
            dh = dz @ Wh.T
        Wx -= lr * gWx
        Wh -= lr * gWh
        Wo -= lr * gWo
    print("epoch", epoch, "loss", epoch_loss / 10)
