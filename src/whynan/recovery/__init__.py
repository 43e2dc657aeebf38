"""What is done so that a run goes on: an order of interventions, and limits to them. No framework here."""
