"""images-not-here: no image of the set is here."""

from whynan.data.finding import Check


class ImagesNotHere(Check):
    """Nothing could be said about images; annotations were checked against the sizes that they give themselves."""

    slug = "images-not-here"
    title = "no image of the set is here"
    severity = "note"
