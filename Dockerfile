# API and worker in one image; docker-compose.yml starts it as either. Builds for linux/amd64 and linux/arm64:
#   docker buildx build --platform linux/amd64,linux/arm64 -t halftone .
FROM node:20-bookworm-slim AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ make python3 \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /app
# Packages first: they change less often than the sources, and this layer then comes from the cache.
COPY package.json package-lock.json .npmrc ./
RUN npm ci --ignore-scripts --include=optional
COPY . .
RUN node scripts/setup.mjs \
 && npm prune --omit=dev --ignore-scripts \
    # ONNX Runtime's package holds every platform; only this one's is kept.
 && find node_modules/onnxruntime-node/bin -mindepth 2 -maxdepth 2 -type d ! -name linux -exec rm -rf {} + \
 && find node_modules/onnxruntime-node/bin/*/linux -mindepth 1 -maxdepth 1 -type d ! -name "$(node -p process.arch)" -exec rm -rf {} + \
 && rm -rf dist/test dist/demo dist/bench dist/vitest.config.js* native/build/Release/obj.target native/build/Release/.deps

FROM node:20-bookworm-slim
ENV NODE_ENV=production \
    DATA_DIR=/data \
    MACHINE_LOCK=/machine/lock \
    NPM_CONFIG_UPDATE_NOTIFIER=false
WORKDIR /app
# Owned by root and not writable for the service. Without tsconfig.json and sources the scripts know that there is nothing to build.
COPY --from=build /app/package.json /app/package-lock.json /app/.npmrc ./
COPY --from=build /app/node_modules node_modules
COPY --from=build /app/native/build/Release native/build/Release
COPY --from=build /app/prisma prisma
COPY --from=build /app/scripts scripts
COPY --from=build /app/dist dist
RUN mkdir /data /machine && chown node:node /data /machine
USER node
VOLUME /data
EXPOSE 8080
# The worker has no port: compose replaces this check there.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT || 8080}/livez`).then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
CMD ["npm", "start"]
