"""Language models at work: what tokenisers compress, what decoding costs and keeps."""
