"""Peak fitting of an emission spectrum by L-BFGS with a strong-Wolfe line search."""
import torch

torch.set_num_threads(2)
torch.manual_seed(65)


def spectrum():
    nm = torch.linspace(400, 700, 300)
    clean = 3.0 * torch.exp(-((nm - 486) / 6) ** 2) + 5.0 * torch.exp(-((nm - 656) / 9) ** 2) + 0.4
    return nm, clean + 0.05 * torch.randn_like(clean)


def line_shapes(nm, params):
    width = torch.exp(params["log_width"])
    shape = torch.exp(-((nm[:, None] - params["centre"] * 100) / width) ** 2)
    return shape @ torch.exp(params["log_height"]) + params["floor"]


nm, counts = spectrum()
params = {
    "centre": torch.tensor([4.8, 6.6], requires_grad=True),
    "log_width": torch.tensor([2.5, 2.5], requires_grad=True),
    "log_height": torch.tensor([0.5, 0.5], requires_grad=True),
    "floor": torch.tensor(0.0, requires_grad=True),
}
optimizer = torch.optim.LBFGS(params.values(), lr=1.0, max_iter=10, line_search_fn="strong_wolfe")
for cycle in range(8):
    def closure():
        optimizer.zero_grad()
        residual = line_shapes(nm, params) - counts
        objective = residual.pow(2).mean()
        objective.backward()
        return objective

    value = optimizer.step(closure)
    print(f"cycle {cycle} mse {value.item():.5f} centres {[round(100 * c, 2) for c in params['centre'].tolist()]}")
