"""Trains every network and makes data sets of pairs. Stands on all other rooms; none needs it to run."""
