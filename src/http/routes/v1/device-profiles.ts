import { type Static, Type } from 'typebox';
import { builtInProfiles } from '../../../domain/built-in-profiles.ts';
import type { Answer } from '../../../services/idempotency.ts';
import type { NewProfile, ProfileView } from '../../../services/profiles.ts';
import { answerOnce } from '../../idempotent.ts';
import { answers, IdempotencyHeader, IdParams, json, Page, ref } from '../../schemas/common.ts';
import { CreateDeviceProfile, DeviceProfile, DeviceProfilePage } from '../../schemas/profile.ts';
import type { App } from '../../types.ts';
import type { RouteDeps } from '../deps.ts';

/** What a profile is where its maker is silent: as `host`. */
const { name: _, machine: __, ...DEFAULTS } = builtInProfiles(null)[0]!;

const made = (profile: ProfileView): Answer => ({ status: 201, header: { location: `/v1/device-profiles/${profile.id}` }, body: profile });

export async function deviceProfileRoutes(app: App, { services }: RouteDeps): Promise<void> {
  app.post(
    '/v1/device-profiles',
    {
      config: { scope: 'write', documentedBody: { required: true, content: { 'application/json': { schema: ref(CreateDeviceProfile) } } } },
      schema: {
        operationId: 'createDeviceProfile',
        tags: ['Device profiles'],
        summary: 'Describe a device',
        security: [{ apiKey: [] }],
        headers: IdempotencyHeader,
        body: CreateDeviceProfile,
        response: answers({ 201: json('The profile.', ref(DeviceProfile)) }, [400, 409, 413, 415, 422]),
      },
    },
    async (request, reply) =>
      answerOnce(services, request, reply, request.body, async (remember) => {
        const body = request.body as Static<typeof CreateDeviceProfile> & Partial<NewProfile>;
        const profile = await services.profiles.create({ ...DEFAULTS, ...body }, (tx, shown) => remember(tx, made(shown)));
        return made(profile);
      }),
  );

  app.get(
    '/v1/device-profiles',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'listDeviceProfiles',
        tags: ['Device profiles'],
        summary: 'List device profiles, newest first',
        security: [{ apiKey: [] }],
        querystring: Type.Object(Page, { additionalProperties: false }),
        response: answers({ 200: json('A page of profiles.', ref(DeviceProfilePage)) }, [422]),
      },
    },
    async (request) => services.profiles.list(request.query),
  );

  app.get(
    '/v1/device-profiles/:id',
    {
      config: { scope: 'read' },
      schema: {
        operationId: 'getDeviceProfile',
        tags: ['Device profiles'],
        summary: 'Get a device profile by id or name',
        security: [{ apiKey: [] }],
        params: IdParams('profile'),
        response: answers({ 200: json('The profile.', ref(DeviceProfile)) }, [404]),
      },
    },
    async (request) => services.profiles.get(request.params.id),
  );

  app.delete(
    '/v1/device-profiles/:id',
    {
      config: { scope: 'write' },
      schema: {
        operationId: 'deleteDeviceProfile',
        tags: ['Device profiles'],
        summary: 'Delete a device profile',
        description: 'Not a built-in one, and not while a job on it has not ended.',
        security: [{ apiKey: [] }],
        params: IdParams('profile'),
        response: answers({ 204: { description: 'It is gone.', type: 'null' } }, [404, 409]),
      },
    },
    async (request, reply) => {
      await services.profiles.remove(request.params.id);
      return reply.code(204).send();
    },
  );
}
