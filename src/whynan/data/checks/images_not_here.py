from whynan.data.finding import Check


class ImagesNotHere(Check):
    """Nothing could be said about images; annotations were checked against the sizes that they give themselves."""

    title = "no image of the set is here"
    severity = "note"
