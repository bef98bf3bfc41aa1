"""The machinery every topic shares: the training step, placement, the loop, data, reports.

    types train_step            the loss protocol, the state, the pure update
    sharding per_device multihost   where it runs: meshes and rules, the pmapped twin, processes
    fit loops stopping evaluate the loop, its inner loops, how it stops; means over a finite stream
    checkpoint power_ema muon   states on disk; averages over the whole training; an optimizer
    training recording          from a loss to a finished run, and what it records
    sweep fleet job_queue       many runs: vmapped, unrolled, queued
    metrics progress timing     JSON lines and TensorBoard, a bar, alternating timings
    plots figure_style          figures
    claims report/              what was measured beside the number it is held against; run folders
    storage/ data/              files that are whole or not there; data sets and batches
    linalg/ statistics/         operators without matrices; power laws, intervals, ranks
    environment testing         where a run ran; what tests of every topic need
    checks                      counts and shares in range, before anything is traced

    from library import claims, training

Nothing is imported here: each module brings only what it needs.
"""
