"""The training methods by name.  To add one, write its loss in this folder and enter it here."""

from collections.abc import Mapping

from train.methods.adversarial import least_likely, logit_pairing, projected
from train.methods.method import Method
from train.methods.pairing import clean_logit_pairing, consistency, normal, pairing, stylized

METHODS: Mapping[str, Method] = {
    "normal": Method(normal, "original"),
    "stylized": Method(stylized, "copy"),
    "pairing": Method(pairing, "copy"),
    "adversarial": Method(least_likely, "original", epsilon=0.1),  # Guan et al. (2022), Section 4.2
    "pgd": Method(projected, "original"),
    "alp": Method(logit_pairing, "original", pairing_weight=0.5),  # Kannan et al. (2018), Section 4.3
    "clp": Method(clean_logit_pairing, "original", pairing_weight=0.5),
    # Controls: pairing with something else in the copy's place.
    "wrong_partner": Method(pairing, "copy_of_class"),
    "jitter": Method(pairing, "jitter"),
    "augmix": Method(consistency, "augmix", pairing_weight=12.0, distance="jsd"),
    "jsd": Method(consistency, "two_copies", pairing_weight=12.0, distance="jsd"),
}
