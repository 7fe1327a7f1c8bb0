"""One model attacked: images chosen, attacks and checks run, one result file written and read. No figures."""
