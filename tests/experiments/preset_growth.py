"""What the accelerator presets enlarge, which `test_presets` holds them against."""

# What an accelerator enlarges or, of a bar or a peer, replaces; all else is as by default.
LARGER = {
    "gan.cifar10": (
        "widths groups num_blocks num_steps batch_size learning_rate gamma ema_decay num_samples "
        "judge_steps"
    ),
    "gan.dirac": "step_size num_steps",
    "gan.images": "ada_images width num_steps batch_size ema_decay num_samples",
    "gan.mnist": (
        "networks size width num_steps batch_size learning_rate ema_decay num_samples vae_steps "
        "judge_steps"
    ),
    "gan.modes": "num_seeds num_steps width num_samples",
    "language_models.inference": "num_steps draft_steps batch_size window width depth",
    "language_models.tokenizers": "train_characters vocab_sizes",
    "latent_diffusion.cifar10": (
        "stage.channels stage.num_steps latent.channels latent.num_steps latent.num_blocks "
        "pixel.channels pixel.num_steps pixel.num_blocks sampling.num_samples sampling.num_steps "
        "batch_size judge_width judge_steps"
    ),
    "latent_diffusion.first_stage": (
        "kl_weights width num_steps batch_size diffusion_width diffusion_steps num_rounds "
        "judge_steps num_test"
    ),
    "latent_diffusion.linear": "width num_steps num_draws",
    "latent_diffusion.mnist": (
        "stage.channels stage.num_steps latent.channels latent.num_steps latent.num_blocks "
        "pixel.channels pixel.num_steps pixel.num_blocks sampling.num_samples sampling.num_steps "
        "batch_size judge_steps"
    ),
    "ntk.attribution": (
        "num_train num_test width num_steps num_subsets num_starts num_models num_features"
    ),
    "ntk.convergence": "dense_widths conv_widths num_draws num_examples",
    "ntk.lazy_training": "widths num_draws",
    "ntk.mnist": "sizes width num_steps",
    "ntk.spectrum": "num_examples width num_landmarks num_probes",
    "ntk.tiled": "num_images memory_bytes",
    "ntk.uci": "max_rows num_trees",
    "scaling_laws.chinchilla": "num_resamples num_starts",
    "scaling_laws.counting": "num_resamples",
    "scaling_laws.coverage": "num_repetitions num_resamples",
    "scaling_laws.isoflop": "num_resamples",
    "scaling_laws.mup": "widths num_seeds length batch_size num_steps",
    "scaling_laws.plan": "num_resamples",
    "scaling_laws.repetition": "profile_points start_grid",
    "scaling_laws.solvable": "num_points num_draws",
    "scaling_laws.sweep": (
        "vocab_size length batch_size budgets widths written_budgets written_widths "
        "written_tune_budgets tune_budgets"
    ),
    "score_sde.cifar10": (
        "num_steps model.channels model.dropout fit.batch_size fit.learning_rate fit.ema_decay "
        "sampling.num_samples sampling.num_steps judge.num_steps"
    ),
    "score_sde.digits": "num_steps model.channels model.dropout fit.batch_size",
    "score_sde.guidance": "num_samples",
    "score_sde.inpainting": "field_size field_steps field_draws",
    "score_sde.likelihood": "num_points field_size field_processes num_images",
    "score_sde.mnist": (
        "num_steps model.channels model.dropout fit.batch_size fit.ema_decay "
        "sampling.num_samples likelihood_per_class judge.num_steps"
    ),
    "score_sde.orders": "max_steps_first_order num_paths",
    "score_sde.predictor_corrector": "num_samples",
    "score_sde.toys": "num_samples num_steps fit.batch_size fit.width",
    "self_supervised.batch_and_queue": (
        "batch_sizes queue_sizes width num_blocks grid num_images num_probe num_test"
    ),
    "self_supervised.cifar10": (
        "num_seeds width num_blocks grid hidden dim queue_size num_steps batch_size dtype "
        "num_probe num_test least_accuracy run.checkpoint_every"
    ),
    "self_supervised.collapse": "num_examples dim num_seeds learning_rate",
    "self_supervised.images": (
        "width num_blocks num_steps batch_size run.log_every run.checkpoint_every"
    ),
    "self_supervised.mae": (
        "width depth decoder_width num_train num_labelled num_test num_steps batch_size "
        "learning_rate num_seeds tune_steps"
    ),
    "self_supervised.pretrained": "num_images batch_size",
    "self_supervised.digits": "num_seeds width num_steps batch_size tune_steps",
    "self_supervised.spectral": "num_states dims",
    "self_supervised.text": (
        "vocab_size depth width num_steps batch_size learning_rate num_seeds tune_steps tune_rate"
    ),
    "self_supervised.transfer": "width num_blocks grid num_steps batch_size num_test",
    "speed.augmentation": "small_batch large_batch",
    "speed.cores": "batch_size",
    "speed.decode": "num_tokens depth width num_heads megabytes",
    "speed.generative": "gan_batch resolution width",
    "speed.ntk": "cnn_examples transformer_examples infinite_cnn_examples",
    "speed.sampling": "unet_batches toy_batch peers",
    "speed.sweep": "num_steps batch_size",
    "speed.text_to_image": "batch steps published",
    "speed.train_step": "mlp_steps unet_steps unet_batch",
    "speed.transformer": (
        "batch_size length depth width num_heads vocab_size dtype steps_per_call"
    ),
    "text_to_image.autoregressive": (
        "size channels num_codes width depth first_steps first_batch num_steps batch_size "
        "learning_rate score_steps score_batch score_width best_of judge_steps judge_width "
        "num_train num_judged least_right"
    ),
    "text_to_image.inversion": (
        "channels width text_width first_steps num_steps batch_size learning_rate num_train "
        "repeats word_steps judge_steps judge_width num_judged sample_steps"
    ),
    "text_to_image.generate": "num_images batch_size dtype train_steps",
    "text_to_image.shapes": (
        "size channels width depth text_width first_steps first_batch first_rate num_steps "
        "batch_size learning_rate judge_steps judge_width num_train num_judged sample_steps "
        "least_right least_relation"
    ),
    "text_to_image.train": (
        "channels width text_width first_steps num_steps batch_size learning_rate"
    ),
    "transformers.masked_lm": (
        "num_steps length size.depth size.width size.num_heads fit.batch_size "
        "fit.learning_rate fit.warmup num_judged evaluate_every"
    ),
    "transformers.seq2seq": (
        "digits add_digits num_steps add_steps size.depth size.width size.num_heads batch_size "
        "learning_rate num_test num_seeds"
    ),
    "transformers.shakespeare": (
        "num_steps length size.depth size.width size.num_heads dropout unroll fit.batch_size "
        "fit.learning_rate bar bar_source num_seeds"
    ),
    "vae.codebook": "num_codes width num_steps batch_size",
    "vae.gradients": "num_variance max_draws num_gradients",
    "vae.images": ("channels_inside width latent_dim components num_steps batch_size num_draws"),
    "vae.ladder": "width num_steps batch_size num_draws",
    "vae.linear": "num_steps num_bounds",
    "vae.mnist": "num_draws num_steps as_published num_fine",
    "vision.vit_vs_cnn": "mnist_labels num_steps mnist_steps",
}
