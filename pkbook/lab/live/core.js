/**
 * The core of the explorers that compute in the page: one import for all of it.
 *
 * Read it in this order: network (a value and its gradient), losses (sensitivities), optimizers
 * (five in one form), training (a recorded run), contributions (the run taken apart), kernels,
 * diffusion.
 * All of it is float64, depends on nothing, and is held to pkbook by tests/test_live_core.py.
 */
export { Generator, batch } from "./core/random.js";
export { Network } from "./core/network.js";
export { squared, logistic, softmax, crossEntropy, losses } from "./core/losses.js";
export { DEFAULTS, NAMES, Optimizer, memoryWeights } from "./core/optimizers.js";
export { Run, without } from "./core/training.js";
export { GAUSS, LEFT_END, averagedGradient, contributions } from "./core/contributions.js";
export { side, kernelEntry, kernelMatrix, normalisedKernel } from "./core/kernels.js";
export {
  covarianceFactor, drivenBatch, weightedGradient, sgdStep, diffusionStep,
} from "./core/diffusion.js";
