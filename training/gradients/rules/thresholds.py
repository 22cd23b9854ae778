"""Every threshold of the rules in one place, with where it comes from.

They are starting points, tuned on the development set in `benchmarks/verdicts/`; what moved one from its source is
written beside it.
"""

from __future__ import annotations

# --- outcome -------------------------------------------------------------------------------------------------------
# Never learned: a linear model is better by more than this, where it beats what learns nothing (Debugger's and
# AutoTrainer's accuracy limits are absolute and misfire on hard data; a baseline on the same windows does not).
LINEAR_FACTOR = 1.1
# A linear model counts as having learned something from here on, as a share of the best trivial forecast's error.
LEARNABLE_SHARE = 0.95
# Where a linear model is nearly perfect, ten percent of its error are nothing: this share of what there is to gain over
# the best trivial forecast may be missing as well (0.1 to 0.3 made no difference on the development set).
MISSING_SHARE = 0.15
# And a forecast this much worse than the best trivial one has learned nothing, whatever the data.
TRIVIAL_FACTOR = 1.1
# With a declared need: no better than this share of the best trivial error is none of what lies there; and up to the
# second share if the training loss was still falling by so much per fifth of the run when the budget ended.
DECLARED_SHARE = 0.9
DECLARED_FALLING_SHARE = 0.6
STEEP_FALL = 0.05

# --- through time --------------------------------------------------------------------------------------------------
# Jacobian at need over lags 1-5 (Pascanu et al. 2013 for the mechanism; Arjovsky et al. 2016 draw the same curve).
VANISHING_WARNING = 1e-3
VANISHING_FAULT = 1e-7
# One direction of the state that lasts keeps this much and carries one number; what the model does with it decides:
# up to here a ratio is too little if the model gains less than half of what a linear one gains from back there. Half,
# because exchanging the past costs a squared error twice what leaving it out would.
VANISHING_UNUSED = 3e-2
UNUSED_SHARE = 0.5
# And where the need is declared and no linear model can be asked: less than this share of its loss.
UNUSED_DECLARED = 0.02
EXPLODING_RATIO = 1e3
# Gradient at the states of the first layer over that of the last: a stack of three LSTM layers has 0.1, of eight 2e-5.
DEPTH_SHARE = 0.15
# Time constant of the slowest tenth of units below this share of the need (Tallec & Ollivier 2018, 1804.11188).
MEMORY_SHARE = 0.1

# --- size of the gradient -------------------------------------------------------------------------------------------
# Robust z of the logarithm and multiple of the median (Cockpit, 2102.06604, watches the same ratio by eye).
SPIKE_Z = 6.0
SPIKE_FACTOR = 10.0
SPIKES_PER_1000_STEPS = 3
WARM_UP_POINTS = 10
CLIPPED_SHARE = 0.5
CLIP_COEFFICIENT = 0.1
# RMS(gradient)/RMS(weight), first layer over last (AutoTrainer, Zhang et al. 2021: 1e-3; DeepDiagnosis: 70).
IMBALANCE_LOW = 1e-3
IMBALANCE_HIGH = 70.0

# --- updates ---------------------------------------------------------------------------------------------------------
# norm(dW)/norm(W), median over the run (Karpathy 2015: about 1e-3 is healthy).
UPDATE_LOW = 1e-5
UPDATE_HIGH = 1e-1
# Among the first logged steps, twice: a step that replaces a third of the weights leaves nothing of their start. Adam at
# 0.01 makes 0.03, at 1.0 it makes 0.8 (measured on the development set).
UPDATE_EARLY = 0.3
# Training loss above this multiple of its best, still there at the end.
DIVERGED_FACTOR = 2.0
DIVERGED_POINTS = 5
OSCILLATION_SIGN_SHARE = 0.5
# The source asks for an amplitude of 3 MAD, but a loss that alternates between two values swings by exactly 2: it could
# never be found. A batch's own noise moves a loss by a tenth.
OSCILLATION_SWING = 0.5

# --- units -----------------------------------------------------------------------------------------------------------
# Share of a layer's units (Debugger's SaturatedActivation and DyingRelu rules use the same majority).
MOST_UNITS = 0.5

# --- data ------------------------------------------------------------------------------------------------------------
# What the recurrence reads is of order one; beyond this, or below its inverse, tanh and the default rates are lost.
INPUT_SIZE = 30.0
CHANNEL_RATIO = 1e3
OUTLIER_RATIO = 100.0

# --- learning --------------------------------------------------------------------------------------------------------
# Consecutive measurements that confirm a signal.
CONFIRMATIONS = 2
UNTRAINED_POINTS = 3
OVERFIT_FACTOR = 1.1
OVERFIT_SIGMAS = 3.0
OVERFIT_CHECKS = 3
# Training loss still falling by this share per fifth of the run: it was stopped too early.
STILL_FALLING = 0.02
# Share of the budget before which nothing is called unlearned.
EARLIEST_SHARE = 0.3
HALF_PRECISION_ZEROS = 0.01
