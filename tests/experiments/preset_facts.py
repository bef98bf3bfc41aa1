"""Facts of presets, by the READMEs and the papers, which `test_presets` holds them against."""

DOUBLED = tuple(2**k for k in range(11))
TEN = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-10)

# As the README of the study states them: the sizes that its table was measured with.
STATED = {
    "gan.cifar10": {
        "widths": (64, 32, 16), "groups": 1, "num_blocks": 1, "num_steps": 3000, "batch_size": 32,
        "gamma": 0.2, "num_samples": 5000, "num_dims": 100, "judge_steps": 1000,
    },
    "gan.dirac": {"step_size": 0.1, "num_steps": 4000},
    "gan.images": {
        "images": "", "network": "r3gan", "augment": "none", "width": 16,
        "num_steps": 6000, "batch_size": 32, "gamma": 0.1, "num_samples": 1000, "num_dims": 50,
    },
    "gan.mnist": {
        "networks": ("dcgan",), "labels": True, "size": 16, "width": 16, "num_steps": 4000,
        "batch_size": 64, "learning_rate": 1e-3, "gamma": 0.2, "ema_decay": 0.998,
        "num_samples": 5000, "num_dims": 50, "vae_steps": 3000, "judge_steps": 2000,
        "num_train": 60_000,
    },
    "gan.modes": {
        "num_seeds": 5, "num_steps": 40_000, "batch_size": 256, "width": 64, "gamma": 0.02,
        "learning_rate": 0.003, "num_samples": 2000, "sets": ("ring", "grid"),
    },
    "language_models.inference": {  # nanoGPT's CPU size, both models 1,000 updates
        "depth": 4, "width": 128, "batch_size": 12, "window": 64, "num_steps": 1000,
        "draft_steps": 1000, "num_tokens": 256, "eval_tokens": 20_000, "batch_sizes": (1, 4, 16),
        "rounds": 3, "caches": ("paged cache", "int8 cache"), "num_drafts": 4,
    },
    "language_models.tokenizers": {
        "train_characters": 2_000_000, "test_characters": 200_000,
        "vocab_sizes": (512, 1024, 2048, 4096, 8192), "text": "",
    },
    "latent_diffusion.cifar10": {
        "stage.channels": (32, 64), "latent.channels": (64, 128), "pixel.channels": (32, 64, 64),
        "stage.num_steps": 800, "latent.num_steps": 1500, "pixel.num_steps": 2300,
    },
    "latent_diffusion.first_stage": {
        "kl_weights": (1e-4, 1e-2, 1e-1), "width": 64, "latent_dim": 1, "num_steps": 2000,
        "batch_size": 64, "diffusion_width": 256, "diffusion_steps": 3000, "num_rounds": 200,
        "num_train": 60_000, "num_test": 2000,
    },
    "latent_diffusion.linear": {
        "latent_dim": 16, "num_test": 300, "num_samples": 16, "solver_steps": 20, "width": 256,
        "factors": (1 / 16, 1 / 4, 1.0, 4.0, 16.0), "num_steps": 4000, "num_draws": 4,
    },
    "latent_diffusion.mnist": {
        "stage.channels": (64,), "stage.latent_dim": 4, "stage.kl_weight": 0.01,
        "stage.num_steps": 1500, "latent.channels": (64,), "latent.num_steps": 3000,
        "pixel.channels": (32, 64), "pixel.num_steps": 2450, "batch_size": 64,
        "sampling.num_samples": 1000, "sampling.num_steps": 20, "sampling.scale": 3.0,
        "judge_width": 32, "judge_steps": 2500, "num_train": 60_000, "num_test": 10_000,
    },
    "ntk.attribution": {
        "num_train": 400, "num_test": 100, "width": 32, "num_subsets": 100, "num_starts": 5,
        "num_models": 5, "num_features": 512,
    },
    "ntk.convergence": {
        "num_examples": 8, "num_draws": 32, "num_hidden": 2,
        "dense_widths": (64, 128, 256, 512, 1024, 2048), "conv_widths": (16, 32, 64, 128, 256),
    },
    "ntk.lazy_training": {
        "num_train": 48, "num_test": 48, "num_draws": 4, "step_size": 0.1,
        "widths": (32, 64, 128, 256, 512, 1024), "times": (0, *DOUBLED), "run.seed": 0,
    },
    "ntk.mnist": {
        "sizes": (100, 300, 1000, 3000), "num_test": 10_000, "num_hidden": 3, "width": 512,
        "num_networks": 2, "dataset": "mnist",
    },
    "ntk.spectrum": {
        "width": 48, "num_examples": 64, "num_landmarks": 32, "num_probes": 48, "num_values": 10,
        "steps": (0, 1, 3, 10, 30, 100, 300, 1000), "networks": ("MLP", "CNN", "transformer"),
    },
    "ntk.tiled": {
        "num_images": 20_000, "num_hidden": 5, "memory_bytes": 2_000_000_000,
        "kill_after": 22 / 55, "dataset": "mnist",
    },
    "ntk.uci": {  # 20 settings of every kernel machine, four forests of 100 trees, four folds
        "source": "uci", "penalties": (0.1, 1.0, 10.0, 100.0, 1000.0), "num_trees": 100,
        "num_folds": 4, "features": (0.1, 0.3, 0.6, 1.0), "depths": (1, 2, 3, 5),
    },
    "scaling_laws.chinchilla": {"num_resamples": 4000},
    "scaling_laws.counting": {"interpolation": "akima"},
    "scaling_laws.coverage": {"num_repetitions": 1000, "num_resamples": 400, "noise": 0.005},
    "scaling_laws.isoflop": {"level": 0.95, "runs": "", "columns": (), "skip_failed": False},
    "scaling_laws.plan": {
        "level": 0.95, "compute": 1e21, "runs": "", "columns": (), "skip_failed": False,
        "delta": 1e-3,
    },
    "scaling_laws.learning_rate": {"num_best": 1},
    "scaling_laws.overtraining": {"space": "linear"},
    "scaling_laws.routed": {"last_step": 240_000},
    "scaling_laws.solvable": {"num_quanta": 10**6},
    "scaling_laws.sweep": {
        "vocab_size": 64, "factor": 8.0, "num_seeds": 3, "run.seed": 3,
        "languages": ("known", "written"), "text": "text/gutenberg_novels.txt.gz",
        "budgets": (2e9, 6e9, 2e10), "widths": (12, 16, 20, 24, 32, 40),
        "written_budgets": (2e10, 4e10, 8e10, 2e11, 6.4e11), "written_distance": 8.0,
        "written_widths": (12, 16, 20, 24, 32, 40, 48, 64), "written_min_steps": 3500,
    },
    "scaling_laws.mup": {
        "widths": (64, 128, 256, 512), "depth": 2, "num_heads": 4, "num_steps": 50,
        "num_seeds": (3, 3, 2, 1), "check_steps": 3,
    },
    "score_sde.digits": {
        "num_draws": 6, "sampling.num_samples": 1000, "sampling.num_steps": 20,
        "sampling.scale": 2.0, "fit.label_dropout": 0.1,
    },
    "score_sde.mnist": {
        "num_steps": 1000, "fit.batch_size": 64, "likelihood_per_class": 20,
        "likelihood_tolerance": 1e-3, "sampling.num_samples": 1000, "num_train": 60_000,
    },
    "score_sde.cifar10": {"fit.batch_size": 64, "num_train": 50_000, "num_test": 10_000},
    "score_sde.guidance": {"scales": (0.0, 0.5, 1.0, 2.0, 4.0), "num_samples": 20_000},
    "score_sde.inpainting": {
        "methods": (
            "exact", "guidance_true_covariance", "guidance", "replacement", "replacement_pc"
        ),
        "correlation": 0.8, "num_draws": 20_000, "field_size": 32, "field_steps": 250,
        "field_draws": 256, "num_steps": (50, 100, 200, 400, 800, 1600),
    },
    "score_sde.likelihood": {
        "num_points": 16, "field_size": 32, "field_processes": ("vp", "edm", "flow"),
        "tolerances": TEN, "checks": ("hutchinson", "mistaken_prior", "bound"),
    },
    "score_sde.orders": {
        "max_steps_first_order": 131_072, "num_doublings": 5,
        "stochastic": ("euler_maruyama", "reverse_diffusion", "ancestral"),
    },
    "score_sde.predictor_corrector": {
        "delta_ve": -0.05, "delta_vp": -0.005, "snr": 0.16, "num_steps": 1000,
        "field_size": 32, "num_samples": 4000,
    },
    "score_sde.toys": {
        "num_memorised": 100, "parts": ("ring", "memorised", "checkerboard"), "num_draws": 100,
    },
    "self_supervised.batch_and_queue": {
        "batch_sizes": (64, 256), "queue_sizes": (256, 4096), "num_chunks": 4, "width": 32,
        "num_blocks": (1, 1), "grid": 8, "num_images": 50_000, "num_probe": 10_000,
    },
    "self_supervised.cifar10": {
        "methods": ("simclr",), "num_seeds": 3, "width": 32, "num_blocks": (1, 1, 1), "grid": 16,
        "temperature": 0.2, "num_steps": 2000, "batch_size": 64, "learning_rate": 2e-3,
        "scale": 0.2, "num_probe": 10_000, "num_test": 2000, "num_components": 256,
        "least_gain": 10.0,
    },
    "self_supervised.collapse": {
        "num_examples": 64, "dim": 8, "num_seeds": 4, "learning_rate": 5e-4, "time": 30.0,
    },
    "self_supervised.images": {
        "images": "", "method": "simclr", "width": 32, "num_blocks": (1, 1), "patch": 1,
        "scale": 0.3, "num_steps": 600, "batch_size": 128, "learning_rate": 2e-3,
    },
    "self_supervised.mae": {
        "ratios": (0.25, 0.5, 0.75, 0.9), "normalise": False, "patch": 7, "width": 64, "depth": 3,
        "num_train": 20_000, "num_steps": 1500, "batch_size": 128, "num_seeds": 3,
        "per_class": 10, "tune_steps": 200, "num_labelled": 5000, "num_test": 2000,
    },
    "self_supervised.pretrained": {"model": "", "images": "", "size": 0, "k": 20},
    "self_supervised.digits": {
        "num_seeds": 5, "width": 16, "num_blocks": (1, 1), "num_steps": 400, "batch_size": 128,
        "learning_rate": 3e-3, "per_class": 10, "tune_steps": 150, "tune_rate": 3e-3,
    },
    "self_supervised.spectral": {
        "num_states": 40, "num_clusters": 4, "dims": (2, 3, 4, 5, 6, 7, 8), "temperature": 0.5,
    },
    "self_supervised.text": {
        "vocab_size": 4096, "length": 64, "depth": 2, "width": 128, "num_steps": 2000,
        "batch_size": 32, "labels": (100, 1000), "num_seeds": 8, "tune_steps": (60, 120, 500),
        "judged": "test", "adapt_steps": 0, "whole_words": False, "num_test": 2000,
        "text": "text/gutenberg_novels.txt.gz",
    },
    "self_supervised.transfer": {
        "sets": ("cifar10", "mnist", "digits"), "width": 32, "num_blocks": (1, 1, 1), "grid": 16,
        "num_steps": 800, "batch_size": 64, "per_class": 100, "num_test": 2000,
    },
    "speed.augmentation": {
        "peer": "", "rounds": 9, "small": 32, "small_batch": 512, "large": 224, "large_batch": 64,
    },
    "speed.decode": {  # GPT-2 small
        "depth": 12, "width": 768, "num_heads": 12, "vocab_size": 50_257, "prompt_length": 32,
        "num_tokens": 64, "rounds": 9,
    },
    "speed.generative": {"vae_batch": 100, "gan_batch": 64, "resolution": 32, "width": 32},
    "speed.ntk": {
        "mlp_width": 1024, "mlp_examples": 128, "cnn_examples": 16, "channels": 64,
        "num_convolutions": 4, "image_size": 32, "fc_depth": 5, "fc_examples": 1000,
        "infinite_cnn_examples": 2, "transformer_width": 128, "transformer_depth": 2,
        "vocabulary": 4096, "transformer_examples": 32, "lengths": (8, 16, 32, 64),
        "matmul_size": 2048,
    },
    "speed.sampling": {
        "unet_batches": (4, 32), "toy_batch": 64, "unet_steps": 10, "likelihood_batch": 256,
        "peer_batch": 4,
    },
    "speed.cores": {"width": 512, "batch_size": 128},
    "speed.scaling_laws": {"grid_starts": 4500, "num_resamples": 4000, "many_starts": 64},
    "speed.sweep": {"num_runs": 32},
    "speed.text_to_image": {
        "peer": "", "rounds": 9, "batch": 4, "steps": 20, "width": 32, "size": 16,
    },
    "speed.train_step": {"mlp_layers": 8, "unet_batch": 4},
    "speed.transformer": {
        "depth": 4, "width": 128, "batch_size": 12, "length": 64, "num_steps": 20, "rounds": 15,
        "steps_per_call": 20, "memory_length": 8192, "dtype": "float32",
    },
    "text_to_image.autoregressive": {
        "size": 32, "channels": (16, 32, 32), "code_dim": 8, "num_codes": 256, "width": 96,
        "depth": 3, "first_steps": 1600, "num_steps": 4500, "batch_size": 32, "score_steps": 600,
        "best_of": 8, "judge_steps": 2500, "num_train": 12_000, "num_judged": 250,
        "guidance": 2.0, "guidances": (1.0, 4.0),
    },
    "text_to_image.inversion": {
        "channels": (16, 32, 32), "width": 48, "first_steps": 400, "num_steps": 1200,
        "batch_size": 64, "num_train": 6000, "num_images": 5, "repeats": 4, "word_steps": 500,
        "word_rate": 5e-3, "judge_steps": 1500, "num_judged": 200, "guidance": 2.0,
    },
    "text_to_image.parity": {"peer": "", "num_texts": 2000},
    "text_to_image.generate": {"model": "", "sample_steps": 30, "train_steps": 800},
    "text_to_image.shapes": {
        "size": 32, "channels": (16, 32, 32), "latent_dim": 4, "width": 48, "depth": 2,
        "first_steps": 1500, "first_batch": 16, "num_steps": 1600, "batch_size": 64,
        "num_train": 12_000, "num_judged": 250, "sample_steps": 20, "guidance": 2.0,
        "guidances": (1.0, 4.0),
    },
    "text_to_image.train": {
        "images": "", "captions": "", "size": 8, "channels": (16, 32), "width": 32, "depth": 2,
        "first_steps": 1000, "num_steps": 2000, "batch_size": 32,
    },
    "transformers.masked_lm": {
        "num_steps": 4000, "length": 64, "size.depth": 4, "size.width": 128, "num_judged": 1024,
        "text": "text/gutenberg_novels.txt.gz", "run.seed": 0,
    },
    "transformers.seq2seq": {
        "digits": 8, "add_digits": 6, "num_steps": 1000, "add_steps": 3000, "batch_size": 64,
        "size.depth": 2, "size.width": 64, "num_test": 512, "num_seeds": 1,
        "encodings": ("none", "sinusoidal", "learned", "rotary", "alibi", "t5"), "run.seed": 0,
    },
    "transformers.shakespeare": {
        "num_steps": 2000, "length": 64, "size.depth": 4, "size.width": 128,
        "fit.learning_rate": 6e-3, "fit.warmup": 100, "bar": 1.90, "num_seeds": 5,
        "evaluate_every": 2000 // 8, "text": "text/tinyshakespeare.txt", "run.seed": 0,
    },
    "vae.codebook": {
        "kinds": ("gradient", "average", "restart"), "num_codes": 256, "dim": 8, "width": 64,
        "decay": 0.99, "commitment": 0.25, "num_steps": 6000, "batch_size": 64,
    },
    "vae.gradients": {
        "means": (0.0, 0.5, 1.0, 1.5, 2.0), "num_variance": 1_000_000, "max_draws": 256,
        "num_gradients": 20_000, "dim": 10, "shift": 0.2,
    },
    "vae.images": {
        "images": "", "channels_inside": (32, 64), "width": 256, "latent_dim": 32,
        "components": 5, "beta": 1.0, "num_steps": 3000, "batch_size": 64, "num_draws": 64,
    },
    "vae.ladder": {
        "shapes": ("1 level", "4 levels", "10 levels"), "width": 1.0, "depth": 1.0,
        "latent_dim": 4, "components": 3, "num_steps": 3000, "batch_size": 32, "num_draws": 64,
    },
    "vae.linear": {
        "num_active": (2, 5, 10, 20, 40), "num_steps": 30_000, "proposals": (2.0, 1.5, 0.4),
        "max_samples": 1024, "num_bounds": 200_000,
    },
    "vae.mnist": {
        "num_draws": (1,), "num_steps": 150_000, "batch_size": 100, "as_published": False,
        "num_test": 10_000, "num_fine": 1000, "coarse_draws": 64, "fine_draws": 5000,
    },
    "vision.vit_vs_cnn": {
        "labels": (50, 100, 200, 500, 1497), "mnist_labels": (1000,), "num_seeds": 5,
        "num_steps": 1000, "small": False,
    },
}  # fmt: skip

# Known from elsewhere: nanoGPT's configurations and the sizes of GPT-2 (Radford et al. 2019).
ELSEWHERE = [
    ("transformers.shakespeare", "default", {  # nanoGPT's README, on a laptop's CPU
        "size.depth": 4, "size.width": 128, "size.num_heads": 4, "length": 64,
        "fit.batch_size": 12, "num_steps": 2000, "dropout": 0.0,
    }),
    ("transformers.shakespeare", "accelerator", {  # config/train_shakespeare_char.py
        "size.depth": 6, "size.width": 384, "size.num_heads": 6, "length": 256,
        "fit.batch_size": 64, "num_steps": 5000, "dropout": 0.2, "fit.learning_rate": 1e-3,
        "fit.warmup": 100, "bar": 1.4697, "evaluate_every": 250,
    }),
    ("speed.transformer", "default", {"num_heads": 4, "vocab_size": 65}),
    ("speed.transformer", "accelerator", {
        "depth": 12, "width": 768, "num_heads": 12, "length": 1024, "vocab_size": 50_304,
    }),
    ("speed.decode", "accelerator", {"depth": 48, "width": 1600, "num_heads": 25}),
    ("language_models.inference", "accelerator", {"depth": 12, "width": 768}),
    ("ntk.attribution", "accelerator", {"num_train": 1497, "num_test": 300}),
    ("ntk.tiled", "accelerator", {"num_images": 60_000}),
    ("vision.vit_vs_cnn", "accelerator", {"mnist_labels": (100, 1000, 10_000, 60_000)}),
]  # fmt: skip
