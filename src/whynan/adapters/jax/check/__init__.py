"""How JAX's first steps are recorded and searched for witnesses: through the step's jaxpr."""
