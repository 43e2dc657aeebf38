from whynan.data.finding import Check, Found
from whynan.data.units import ImageLook


class ImageConstant(Check):
    """Normalising an image by its own mean and standard deviation divides by 0, and so do instance norm and layer norm
    without enough eps; a batch that is constant in a channel does it to batch norm."""

    title = "image of one single value"
    severity = "warning"
    cause = "constant-input"
    subject = "image"

    def find(self, thing: ImageLook) -> Found:
        flat = thing.facts.get("flat")
        if thing.facts.get("error") or not flat or not all(_colours(thing.facts["mode"], flat)):
            return
        size, level = thing.facts["size"], thing.facts["level"]
        if size[0] * size[1] < 4:
            return
        value = ", ".join(f"{value:.4g}" for value in level)
        yield self.finding(thing.file, value, f"all {size[0]} x {size[1]} pixels are ({value}) of 1", image=thing.file)


def _colours(mode: str, flat: list[bool]) -> list[bool]:
    """An alpha channel is constant in nearly every image."""
    return flat[:-1] if mode in ("RGBA", "LA", "PA", "La", "RGBa") and len(flat) > 1 else flat
